import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from fed_socket import FedSocket

from tailrace.cli.demo_run import (
    Order,
    Runs,
    agent_orders,
    audits,
    digests,
    documents,
    drive,
    ingests,
    topics,
)
from tailrace.cli.demo_watch import Watcher
from tailrace.cli.errors import DemoError


def test_documents_are_found_below_the_folder_but_not_in_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.md", "sub/a.txt", ".venv/c.md", "sub/.git/d.md", "e.py", "f.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [str(path.relative_to(tmp_path)) for path in documents(tmp_path)]
    assert found == ["b.md", "f.html", "sub/a.txt"]


def test_folder_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="--path"):
        documents(tmp_path)


def test_topics_are_what_the_documents_speak_of_most(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("river river dam")
    (tmp_path / "b.md").write_bytes(b"\0 binary")
    assert topics([tmp_path / "a.md", tmp_path / "b.md", tmp_path / "gone.md"]) == ["river", "dam"]
    assert topics([tmp_path / "b.md"]) == ["documents"]


def first(orders: Iterator[Order], number: int) -> list[Order]:
    return list(islice(orders, number))


def test_every_kind_is_asked_for_and_some_are_cancelled() -> None:
    jobs = first(ingests([Path("/a.md"), Path("/b.md")]), 7)
    assert [job.body["path"] for job in jobs[:3]] == ["/a.md", "/b.md", "/a.md"]
    assert [job.cancel for job in jobs] == [False] * 6 + [True]
    assert sum(order.cancel for order in first(agent_orders(["river"]), 10)) == 2
    assert sum(order.cancel for order in first(digests(), 8)) == 2


def test_each_third_audit_has_bad_input() -> None:
    given = [order.body["input"]["require"] for order in first(audits(["river", "dam"]), 3)]
    assert given == [["river", "dam"], ["river", "dam"], "river"]


def test_digests_fail_at_the_end_at_most_twice() -> None:
    assert {order.body["input"]["failures"] for order in first(digests(), 9)} == {0, 1, 2}


class Services:
    """Answers like the services, ends runs when a test says so, and tells the watcher."""

    def __init__(self, socket: FedSocket) -> None:
        self._socket = socket
        self.asked: list[str] = []
        self.moved = asyncio.Condition()
        self.ends = True
        self.cancel_status = 200

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes([web.post("/api/{path:.*}", self._post)])
        return app

    async def until(self, number: int) -> None:
        async with self.moved:
            await self.moved.wait_for(lambda: len(self.asked) >= number)

    async def _post(self, request: web.Request) -> web.Response:
        path = request.match_info["path"].removeprefix("projects/p/")
        if path == "refused":
            return web.Response(status=503, text="draining")
        async with self.moved:
            self.asked.append(path)
            self.moved.notify_all()
        if path.endswith("/cancel"):
            self._tell(path.split("/")[-2], "cancelled", 0.5)
            return web.Response(status=self.cancel_status)
        run_id = f"r{len(self.asked)}"
        self._tell(run_id, *(("completed", 1.0) if self.ends else ("updated", 0.5)))
        return web.Response(status=201, headers={"Location": f"{request.path}/{run_id}"})

    def _tell(self, run_id: str, what: str, progress: float) -> None:
        self._socket.feed(f"agent.run.{what}", run={"id": run_id, "progress": progress})


class Stage:
    """Runs against such services, and everything around them."""

    def __init__(self, services: Services, runs: Runs, stop: asyncio.Event) -> None:
        self.services = services
        self.runs = runs
        self.stop = stop


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    socket = FedSocket()
    services, watcher, stop = Services(socket), Watcher(socket), asyncio.Event()  # type: ignore[arg-type]  # a fake
    watching = asyncio.create_task(watcher.run())
    async with ClientSession() as http, TestServer(services.app()) as server:
        url = str(server.make_url("")).rstrip("/")
        yield Stage(services, Runs(http, url, "p", watcher, stop), stop)
    watching.cancel()


def order(path: str = "agent-runs", *, cancel: bool = False) -> Order:
    body: dict[str, Any] = {}
    return Order(path, body, cancel)


async def test_run_is_seen_through_to_its_end() -> None:
    async with staged() as stage:
        await stage.runs.one(order())
    assert stage.services.asked == ["agent-runs"]


@pytest.mark.parametrize("status", [200, 409])
async def test_run_is_cancelled_on_its_way_unless_it_was_faster(status: int) -> None:
    async with staged() as stage:
        stage.services.ends = False
        stage.services.cancel_status = status
        await stage.runs.one(order(cancel=True))
    assert stage.services.asked == ["agent-runs", "agent-runs/r1/cancel"]


async def test_what_runs_when_it_is_time_to_stop_is_cancelled() -> None:
    async with staged() as stage:
        stage.services.ends = False
        lane = asyncio.create_task(stage.runs.lane(iter([order(), order()])))
        await stage.services.until(1)
        stage.stop.set()
        await lane
    assert stage.services.asked == ["agent-runs", "agent-runs/r1/cancel"]


async def test_refusal_is_an_error_in_one_line() -> None:
    async with staged() as stage:
        with pytest.raises(DemoError, match=r"^the services refused .*/refused: draining$"):
            await stage.runs.one(order("refused"))
        stage.services.cancel_status = 500
        stage.services.ends = False
        with pytest.raises(DemoError, match=r"^the services refused to cancel"):
            await stage.runs.one(order(cancel=True))


async def test_drive_starts_every_lane_after_a_first_document(tmp_path: Path) -> None:
    (tmp_path / "large.md").write_text("river " * 100)
    (tmp_path / "small.md").write_text("dam")
    async with staged() as stage:
        driving = asyncio.create_task(drive(stage.runs, documents(tmp_path)))
        await stage.services.until(8)
        stage.stop.set()
        await driving
    assert stage.services.asked[0] == "ingest"
    assert sorted(stage.services.asked[:8]) == [
        *("agent-runs",) * 2,
        *("ingest",) * 4,
        "workflows/audit/runs",
        "workflows/digest/runs",
    ]


async def test_drive_fails_with_the_first_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.md").write_text("dam")
    monkeypatch.setattr("tailrace.cli.demo_run.digests", lambda: iter([order("refused")]))
    async with staged() as stage:
        with pytest.raises(DemoError, match="draining"):
            await drive(stage.runs, documents(tmp_path))
