import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from recording_events import RecordingEvents

from tailrace.services.errors import RunEndedError, RunFailedError, RunStoppedError
from tailrace.services.lifecycle import Active, Capacity, RunService, utc_now
from tailrace.services.runs import Run, Status, moment
from tailrace.services.store import RunStore


class Service(RunService[Run]):
    """Runs that do what a test says."""

    def __init__(self, store: RunStore[Run], events: RecordingEvents) -> None:
        super().__init__(store, Capacity(workers=1, max_runs=10), utc_now)
        self._events = events
        self.error: Exception | None = None
        self.hold = asyncio.Event()
        self.undone: list[str] = []

    async def submit(self) -> Run:
        at = moment(self._now())
        return await self._take(lambda i: Run(id=i, project_id="p", created_at=at, updated_at=at))

    async def _perform(self, active: Active[Run]) -> None:
        await self._enter(active, "working")
        if self.error is not None:
            raise self.error
        await active.unless_stopped(self._held())

    async def _held(self) -> None:
        await self.hold.wait()

    async def _undo(self, run: Run) -> None:
        self.undone.append(run.id)

    def _emit(self, run: Run, what: str) -> None:
        self._events.emit_workflow_event("p", f"workflow.run.{what}", run, run.error_message)


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore[Run]]:
    with RunStore(tmp_path / "runs.db", Run) as store:
        yield store


def active_of() -> Active[Run]:
    return Active(Run(id="r", project_id="p", created_at="", updated_at=""))


async def test_work_that_ends_first_is_returned() -> None:
    async def work() -> int:
        return 7

    assert await active_of().unless_stopped(work()) == 7


async def test_work_is_cancelled_in_the_middle_when_the_run_is_to_stop() -> None:
    active = active_of()
    left = asyncio.Event()

    async def work() -> None:
        active.stop.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    with pytest.raises(RunStoppedError):
        await active.unless_stopped(work())
    assert left.is_set()


async def test_work_that_cancels_itself_is_a_failure() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RunFailedError, match="from inside"):
        await active_of().unless_stopped(work())


async def test_running_work_is_cancelled_and_undone(
    store: RunStore[Run], events: RecordingEvents
) -> None:
    async with Service(store, events) as service:
        run = await service.submit()
        await events.until(lambda e: e.body["stage"] == "working")
        assert (await service.cancel("p", run.id)).status is Status.CANCELLED
        with pytest.raises(RunEndedError, match=f"run {run.id} has already ended: cancelled"):
            await service.cancel("p", run.id)
    assert service.undone == [run.id]
    assert events.types() == [f"workflow.run.{w}" for w in ("created", "updated", "cancelled")]


@pytest.mark.parametrize(
    ("error", "message"),
    [(RunFailedError("no documents"), "no documents"), (ValueError("secret"), "internal error")],
)
async def test_failure_is_told_and_a_bug_is_not_shown(
    store: RunStore[Run], events: RecordingEvents, error: Exception, message: str
) -> None:
    async with Service(store, events) as service:
        service.error = error
        run = await service.submit()
        assert (await events.ended(run.id)).error == message


async def test_drained_run_fails_as_interrupted(
    store: RunStore[Run], events: RecordingEvents
) -> None:
    async with Service(store, events) as service:
        run = await service.submit()
        await events.until(lambda e: e.body["stage"] == "working")
    assert store.get("p", run.id).error_message == "interrupted"
    assert events.types()[-1] == "workflow.run.failed"


async def test_run_of_a_killed_process_fails_at_the_next_start(
    store: RunStore[Run], events: RecordingEvents
) -> None:
    store.save(active_of().run)
    async with Service(store, events) as service:
        assert (await service.get("p", "r")).error_message == "interrupted"
    assert events.types() == ["workflow.run.failed"]
