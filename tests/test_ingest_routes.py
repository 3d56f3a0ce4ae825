from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from recording_events import RecordingEvents, no_stats

from tailrace.services.app import create_app
from tailrace.services.ingest_routes import INGEST
from tailrace.services.settings import ServicesSettings

Client = TestClient[web.Request, web.Application]
JOBS = "/api/projects/p/ingest"


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


@pytest.fixture
def settings(tmp_path: Path) -> ServicesSettings:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.md").write_text("# A\nriver")
    (root / "a.pdf").write_bytes(b"%PDF")
    (root / "big.md").write_bytes(b"x" * 2000)
    return ServicesSettings(
        data_dir=tmp_path / "data",
        ingest_root=root,
        ingest_max_bytes=1000,
        ingest_max_jobs=1,
        ingest_pace_ms=60_000,
    )


@pytest.fixture
async def client(settings: ServicesSettings, events: RecordingEvents) -> AsyncIterator[Client]:
    async with TestClient(TestServer(create_app(settings, events, no_stats))) as client:
        yield client


async def posted(client: Client, **body: object) -> tuple[int, dict[str, Any]]:
    answer = await client.post(JOBS, json=body)
    return answer.status, await answer.json()


async def test_posted_job_is_created_and_found_where_it_says(client: Client) -> None:
    answer = await client.post(JOBS, json={"path": "a.md", "title": " A "})
    job = await answer.json()
    assert answer.status == 201
    assert UUID(job["id"]).version == 7
    assert (job["project_id"], job["status"], job["path"]) == ("p", "queued", "a.md")
    assert job["title"] == "A"
    assert answer.headers["Location"] == f"{JOBS}/{job['id']}"
    found = await client.get(answer.headers["Location"])
    assert (found.status, (await found.json())["id"]) == (200, job["id"])


async def test_location_keeps_an_escaped_project(client: Client) -> None:
    answer = await client.post("/api/projects/a%2Fb/ingest", json={"text": "river"})
    assert (await answer.json())["project_id"] == "a/b"
    assert (await client.get(answer.headers["Location"])).status == 200


async def test_cancel_answers_with_the_cancelled_job_and_then_409(
    client: Client,
    events: RecordingEvents,
) -> None:
    _, job = await posted(client, text="river")
    await events.first_chunk(job["id"])
    cancelled = await client.post(f"{JOBS}/{job['id']}/cancel")
    assert cancelled.status == 200
    body = await cancelled.json()
    assert (body["status"], body["progress"]) == ("cancelled", 1.0)
    again = await client.post(f"{JOBS}/{job['id']}/cancel")
    assert (again.status, (await again.json())["error"]["code"]) == (409, "already_ended")


async def test_list_holds_the_jobs_of_the_project(client: Client) -> None:
    _, job = await posted(client, text="river")
    listed = await (await client.get(JOBS)).json()
    assert [entry["id"] for entry in listed["jobs"]] == [job["id"]]
    assert await (await client.get("/api/projects/q/ingest")).json() == {"jobs": []}


@pytest.mark.parametrize("path", [f"{JOBS}/no-such-job", "/api/projects/q/ingest/x"])
async def test_unknown_job_is_not_found(client: Client, path: str) -> None:
    for answer in (await client.get(path), await client.post(f"{path}/cancel")):
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"path": None, "text": None}, 400),
        ({"path": "a.md", "text": "river"}, 400),
        ({"path": ""}, 400),
        ({"path": 7}, 400),
        ({"path": "."}, 400),
        ({"path": "a\0.md"}, 400),
        ({"text": ""}, 400),
        ({"text": "a\0b"}, 400),
        ({"text": "river", "title": " "}, 400),
        ({"text": "river", "title": "x" * 201}, 400),
        ({"text": "river", "pace": 1}, 400),
        ({"path": "../data/jobs.db"}, 403),
        ({"path": "/etc/passwd"}, 403),
        ({"path": "b.md"}, 404),
        ({"path": "big.md"}, 413),
        ({"path": "a.pdf"}, 415),
    ],
)
async def test_unusable_request_is_refused_and_starts_nothing(
    client: Client,
    events: RecordingEvents,
    body: dict[str, object],
    status: int,
) -> None:
    answered, error = await posted(client, **body)
    assert answered == status
    assert error["error"]["message"]
    assert events.emitted == []


async def test_lone_surrogate_is_refused(client: Client) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post(JOBS, data=b'{"text":"\\ud800"}', headers=headers)
    assert answer.status == 400


async def test_full_queue_answers_429_with_retry_after(client: Client) -> None:
    await posted(client, text="river")
    answer = await client.post(JOBS, json={"text": "dam"})
    assert (answer.status, (await answer.json())["error"]["code"]) == (429, "queue_full")
    assert int(answer.headers["Retry-After"]) > 0


async def test_draining_service_answers_503_and_still_shows_its_jobs(client: Client) -> None:
    _, job = await posted(client, text="river")
    app = client.app
    assert app is not None
    await app[INGEST].drain()
    answer = await client.post(JOBS, json={"text": "dam"})
    assert (answer.status, (await answer.json())["error"]["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"]
    shown = await (await client.get(f"{JOBS}/{job['id']}")).json()
    assert (shown["status"], shown["error_message"]) == ("failed", "interrupted")
