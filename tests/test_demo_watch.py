import asyncio
import math

import pytest
from fed_socket import FedSocket

from tailrace.cli import demo_watch
from tailrace.cli.demo_watch import ENDED, Outcome, Watcher, percentile, summary
from tailrace.cli.errors import DemoError


@pytest.fixture
def socket() -> FedSocket:
    return FedSocket()


@pytest.fixture
def watcher(socket: FedSocket) -> Watcher:
    return Watcher(socket)  # type: ignore[arg-type]  # a fake


def test_percentile_is_the_nearest_rank() -> None:
    assert [percentile(range(1, 101), share) for share in (0, 0.5, 0.99, 1)] == [1, 51, 100, 100]
    assert math.isnan(percentile([], 0.5))


def test_summary_says_what_ended_how_and_what_was_lost() -> None:
    ends = {"ingest.job.completed": 3, "ingest.job.cancelled": 1, "workflow.run.failed": 2}
    outcome = Outcome(5, 4, [1.0, 2.0, 3.0, 4.0], ends)
    assert outcome.lost == 1
    assert summary(outcome).splitlines() == [
        "4 ingest jobs (3 completed, 1 cancelled) · 0 agent runs · 2 workflow runs (2 failed)",
        "emitted 5 · delivered 4 · lost 1 · p50 3.0 ms · p99 4.0 ms",
    ]


async def test_every_event_is_counted_and_timed(socket: FedSocket, watcher: Watcher) -> None:
    socket.feed("ingest.job.completed", job={"id": "j", "progress": 1.0})
    socket.feed("agent.step.updated", step={"id": "s"})
    watching = asyncio.create_task(watcher.run())
    await watcher.until_delivered(2)
    watching.cancel()
    assert (watcher.delivered, len(watcher.latencies_ms)) == (2, 2)
    assert watcher.ends == {"ingest.job.completed": 1}


async def test_run_is_waited_for_until_it_is_far_enough_or_has_ended(
    socket: FedSocket, watcher: Watcher
) -> None:
    watching = asyncio.create_task(watcher.run())
    half = asyncio.create_task(watcher.until("r", 0.5))
    end = asyncio.create_task(watcher.until("r", ENDED))
    socket.feed("workflow.run.updated", run={"id": "r", "progress": 0.4})
    socket.feed("workflow.run.updated", run={"id": "r", "progress": 1.0})
    await half
    assert not end.done()
    socket.feed("workflow.run.failed", run={"id": "r", "progress": 0.4})
    await end
    watching.cancel()


async def test_missing_events_are_not_waited_for_forever(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_watch, "_SETTLE_S", 0)
    await watcher.until_delivered(1)
    assert watcher.delivered == 0


async def test_only_the_newest_runs_are_remembered(
    socket: FedSocket, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_watch, "_MAX_RUNS", 2)
    for run_id in "abc":
        socket.feed("agent.run.created", run={"id": run_id, "progress": 0.0})
    socket.close()
    with pytest.raises(DemoError, match=r"^the edge closed the viewer: 1012$"):
        await watcher.run()
    assert list(watcher._progress) == ["b", "c"]
