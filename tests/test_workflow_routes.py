from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from recording_events import RecordingEvents, no_stats

from tailrace.services.app import create_app
from tailrace.services.settings import ServicesSettings

Client = TestClient[web.Request, web.Application]
WORKFLOWS = "/api/projects/p/workflows"


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


@pytest.fixture
async def client(tmp_path: Path, events: RecordingEvents) -> AsyncIterator[Client]:
    settings = ServicesSettings(data_dir=tmp_path / "data", ingest_root=tmp_path)
    async with TestClient(TestServer(create_app(settings, events, no_stats))) as client:
        job = await client.post("/api/projects/p/ingest", json={"text": "The river.", "title": "R"})
        await events.ended((await job.json())["id"])
        events.emitted.clear()
        yield client


async def test_digest_of_what_was_ingested(client: Client, events: RecordingEvents) -> None:
    answer = await client.post(f"{WORKFLOWS}/digest/runs", json={"input": {"sentences": 1}})
    run = await answer.json()
    assert (answer.status, run["workflow"], run["input"]) == (201, "digest", {"sentences": 1})
    assert answer.headers["Location"] == f"{WORKFLOWS}/runs/{run['id']}"
    last = await events.ended(run["id"])
    shown = await (await client.get(answer.headers["Location"])).json()
    assert shown == last.body
    assert shown["output"]["digest"] == "R: The river."


async def test_audit_shows_a_failure(client: Client, events: RecordingEvents) -> None:
    run = await (await client.post(f"{WORKFLOWS}/audit/runs", json={})).json()
    last = await events.ended(run["id"])
    assert (last.type, last.error) == ("workflow.run.failed", "input.require: Field required")


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [("x", {}, 404), ("audit", {"input": []}, 400), ("audit", {"inputs": {}}, 400)],
)
async def test_unusable_request_is_refused(
    client: Client, events: RecordingEvents, name: str, body: dict[str, object], status: int
) -> None:
    answer = await client.post(f"{WORKFLOWS}/{name}/runs", json=body)
    assert answer.status == status
    assert events.emitted == []
