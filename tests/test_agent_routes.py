from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from recording_events import RecordingEvents, no_stats

from tailrace.services.app import create_app
from tailrace.services.settings import ServicesSettings

Client = TestClient[web.Request, web.Application]
RUNS = "/api/projects/p/agent-runs"


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


@pytest.fixture
async def client(tmp_path: Path, events: RecordingEvents) -> AsyncIterator[Client]:
    settings = ServicesSettings(
        data_dir=tmp_path / "data", ingest_root=tmp_path, agent_max_runs=1, graph_pace_ms=60_000
    )
    async with TestClient(TestServer(create_app(settings, events, no_stats))) as client:
        yield client


async def test_run_is_created_refuses_another_and_is_cancelled(
    client: Client, events: RecordingEvents
) -> None:
    run = await (await client.post(RUNS, json={"goal": " 6*7 "})).json()
    assert run["goal"] == "6*7"
    full = await client.post(RUNS, json={"goal": "another"})
    assert (full.status, (await full.json())["error"]["code"]) == (429, "queue_full")
    assert full.headers["Retry-After"]
    await events.until(lambda e: e.type == "agent.step.updated")
    cancelled = await client.post(f"{RUNS}/{run['id']}/cancel")
    assert (cancelled.status, (await cancelled.json())["status"]) == (200, "cancelled")
    assert events.emitted[-1].type == "agent.run.cancelled"


@pytest.mark.parametrize("body", [{}, {"goal": " "}, {"goal": 7}, {"goal": "x", "more": 1}])
async def test_unusable_goal_is_refused(
    client: Client, events: RecordingEvents, body: dict[str, object]
) -> None:
    answer = await client.post(RUNS, json=body)
    assert (answer.status, (await answer.json())["error"]["code"]) == (400, "bad_request")
    assert events.emitted == []
