from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from recording_events import RecordingEvents, no_stats

from tailrace.services.app import create_app
from tailrace.services.settings import ServicesSettings


@pytest.mark.parametrize(
    ("path", "body", "noun"),
    [
        ("ingest", {"text": "river"}, "job"),
        ("agent-runs", {"goal": "1+1"}, "run"),
        ("workflows/audit/runs", {}, "run"),
    ],
)
async def test_every_service_lists_shows_and_ends_its_runs_alike(
    tmp_path: Path, path: str, body: dict[str, Any], noun: str
) -> None:
    events = RecordingEvents()
    settings = ServicesSettings(data_dir=tmp_path / "data", ingest_root=tmp_path)
    async with TestClient(TestServer(create_app(settings, events, no_stats))) as client:
        answer = await client.post(f"/api/projects/a%2Fb/{path}", json=body)
        run = await answer.json()
        assert (answer.status, run["status"], run["project_id"]) == (201, "queued", "a/b")
        place = answer.headers["Location"]
        await events.ended(run["id"])
        shown = await (await client.get(place)).json()
        assert (shown["id"], shown["progress"] in {0.0, 1.0}) == (run["id"], True)
        listed = await (await client.get(place.rpartition("/")[0])).json()
        assert listed == {f"{noun}s": [shown]}
        late = await client.post(f"{place}/cancel")
        assert (late.status, (await late.json())["error"]["code"]) == (409, "already_ended")
        other = await client.get(place.replace("a%2Fb", "q"))
        assert (other.status, await other.json()) == (
            404,
            {"error": {"code": "not_found", "message": f"there is no {noun} '{run['id']}'"}},
        )
