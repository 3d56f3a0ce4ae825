import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer
from recording_events import RecordingEvents, no_stats

from tailrace.schemas import ParameterError
from tailrace.services.app import create_app
from tailrace.services.errors import StorageError
from tailrace.services.settings import ServicesSettings

JOBS = "/api/projects/p/ingest"

PROGRAM = """
from aiohttp import web
from tailrace.producers import Emitter
from tailrace.services.app import create_app
from tailrace.services.settings import ServicesSettings

class Printed:
    def emit_ingest_event(self, project_id, event_type, body, error=None):
        print(event_type, body.model_dump_json(), flush=True)

    emit_agent_event = emit_workflow_event = emit_ingest_event

app = create_app(ServicesSettings(), Printed(), Emitter().stats)
web.run_app(app, host="127.0.0.1", port=0, print=lambda text: print(text, flush=True))
"""


@pytest.fixture
def settings(tmp_path: Path) -> ServicesSettings:
    return ServicesSettings(data_dir=tmp_path / "data", ingest_root=tmp_path, ingest_pace_ms=60_000)


async def test_healthz_says_that_the_process_is_alive(settings: ServicesSettings) -> None:
    async with TestClient(TestServer(create_app(settings, RecordingEvents(), no_stats))) as client:
        answer = await client.get("/healthz")
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})


async def test_stopping_ends_jobs_as_interrupted_and_frees_the_data(
    settings: ServicesSettings,
) -> None:
    events = RecordingEvents()
    async with TestClient(TestServer(create_app(settings, events, no_stats))) as client:
        job = await (await client.post(JOBS, json={"text": "river"})).json()
        await events.first_chunk(job["id"])
    assert events.types()[-1] == "ingest.job.failed"
    again = RecordingEvents()
    async with TestClient(TestServer(create_app(settings, again, no_stats))) as client:
        shown = await (await client.get(f"{JOBS}/{job['id']}")).json()
    assert (shown["status"], shown["error_message"]) == ("failed", "interrupted")
    assert again.emitted == []


async def test_second_service_on_the_same_data_does_not_start(settings: ServicesSettings) -> None:
    async with TestServer(create_app(settings, RecordingEvents(), no_stats)):
        with pytest.raises(StorageError, match="another process uses it"):
            await TestServer(create_app(settings, RecordingEvents(), no_stats)).start_server()


class Process:
    """A real process that runs the service and prints what it emits."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        self.url = ""
        self.emitted: list[tuple[str, dict[str, Any]]] = []

    async def line(self, start: str) -> str:
        """Read on to the next line that starts so; keep the events on the way."""
        assert self._child.stdout is not None
        while raw := await self._child.stdout.readline():
            line = raw.decode().strip()
            if line.startswith(("ingest.", "agent.", "workflow.")):
                event_type, _, body = line.partition(" ")
                self.emitted.append((event_type, json.loads(body)))
            if line.startswith(start):
                return line
        raise AssertionError(f"the process ended before {start!r}")

    async def kill(self) -> None:
        self._child.kill()
        await self._child.wait()


@asynccontextmanager
async def running(folder: Path, ingest_pace_ms: int = 60_000) -> AsyncIterator[Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        stdout=asyncio.subprocess.PIPE,
        env={
            "TAILRACE_DATA_DIR": str(folder / "data"),
            "TAILRACE_INGEST_ROOT": str(folder),
            "TAILRACE_INGEST_WORKERS": "1",
            "TAILRACE_INGEST_PACE_MS": str(ingest_pace_ms),
            "TAILRACE_GRAPH_PACE_MS": "60000",
        },
    )
    process = Process(child)
    try:
        line = await process.line("======== Running on ")
        process.url = line.split()[3]
        yield process
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def test_killed_service_shows_its_jobs_as_interrupted_after_a_restart(
    tmp_path: Path,
) -> None:
    async with ClientSession() as session:
        async with running(tmp_path) as process:
            jobs = [
                await (await session.post(process.url + JOBS, json={"text": text})).json()
                for text in ("river", "dam")
            ]
            await process.line("ingest.job.updated")
            while process.emitted[-1][1]["progress"] < 1:
                await process.line("ingest.job.updated")
            await process.kill()
        async with running(tmp_path) as process:
            shown = [
                await (await session.get(f"{process.url}{JOBS}/{job['id']}")).json() for job in jobs
            ]
    assert [(job["status"], job["error_message"]) for job in shown] == [
        ("failed", "interrupted"),
    ] * 2
    assert process.emitted == [("ingest.job.failed", job) for job in shown]


async def test_killed_service_fails_its_graphs_runs_after_a_restart(tmp_path: Path) -> None:
    api = "/api/projects/p"
    wanted = [
        ("agent-runs", {"goal": "1+1"}, "agent.run.updated"),
        ("workflows/digest/runs", {}, "workflow.run.updated"),
    ]
    async with ClientSession() as session:
        async with running(tmp_path, ingest_pace_ms=0) as process:
            await session.post(process.url + JOBS, json={"text": "river"})
            await process.line("ingest.job.completed")
            places = []
            for path, body, began in wanted:
                answer = await session.post(f"{process.url}{api}/{path}", json=body)
                places.append(answer.headers["Location"])
                await process.line(began)
            await process.kill()
        async with running(tmp_path) as process:
            shown = [await (await session.get(process.url + place)).json() for place in places]
    assert [(run["status"], run["error_message"]) for run in shown] == [
        ("failed", "interrupted"),
    ] * 2
    assert process.emitted == [
        ("agent.run.failed", shown[0]),
        ("workflow.run.failed", shown[1]),
    ]


async def test_unusable_chat_model_stops_the_start(tmp_path: Path) -> None:
    settings = ServicesSettings(
        data_dir=tmp_path / "data", ingest_root=tmp_path, chat_model="no_such_module:x"
    )
    with pytest.raises(ParameterError, match="chat_model"):
        await TestServer(create_app(settings, RecordingEvents(), no_stats)).start_server()


def test_application_can_be_made_without_starting_anything(settings: ServicesSettings) -> None:
    app = create_app(settings, RecordingEvents(), no_stats)
    assert isinstance(app, web.Application)
    assert not settings.data_dir.exists()
