import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from tailrace.producers.background import Background


class Running:
    """A background that does nothing until it is ended."""

    def __init__(self) -> None:
        self.ends = threading.Event()
        self.made = Background(self._main, on_end=self.ends.set)

    async def _main(self) -> None:
        self.made.ready()
        await asyncio.Event().wait()

    def answers(self, timeout: float) -> bool:
        answered = threading.Event()
        self.made.call(answered.set)
        return answered.wait(timeout)


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    made.made.start()
    assert made.made.running.wait(10)
    yield made
    made.made.go_on()
    made.made.end()


def test_main_runs_on_a_thread_of_its_own_until_it_is_ended(running: Running) -> None:
    assert running.answers(10)
    assert not running.made.is_current()
    assert not running.ends.is_set()
    running.made.end()
    assert running.made.ended.is_set()
    assert running.ends.is_set()
    assert not running.answers(0)


def test_main_that_fails_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    failed, told = threading.Event(), threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: failed.set())

    async def main() -> None:
        raise ZeroDivisionError

    made = Background(main, on_end=told.set)
    made.start()
    assert failed.wait(10)
    assert made.ended.is_set()
    assert told.is_set()


def test_parked_thread_runs_nothing_until_it_goes_on(running: Running) -> None:
    running.made.park(60)
    assert not running.answers(0)
    running.made.go_on()
    assert running.answers(10)


def test_what_never_ran_or_has_ended_is_not_waited_for() -> None:
    made = Running()
    made.made.park(60)
    assert not made.answers(0)
    made.made.start()
    assert made.made.running.wait(10)
    made.made.end()
    made.made.park(60)


def test_it_may_be_started_again_when_there_was_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    made = Running()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            made.made.start()
    assert made.made.thread is None
    made.made.start()
    assert made.made.running.wait(10)
    made.made.end()


def test_names_are_resolved_without_an_executor(running: Running) -> None:
    loop = running.made.loop
    assert loop is not None
    resolving = loop.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)
    found = asyncio.run_coroutine_threadsafe(resolving, loop).result(10)
    assert {address[4][1] for address in found} == {1}
    assert threading.active_count() < 10
    assert not [t for t in threading.enumerate() if t.name.startswith("asyncio_")]
