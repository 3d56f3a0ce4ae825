"""Several edge processes on one port, and the parent that keeps them running.

The kernel spreads connections over them (SO_REUSEPORT). They share nothing: each reads the topic
and serves its own viewers, and a cursor of one is good on any other.
"""

import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import structlog

from tailrace.edge.siblings import Siblings

__all__ = ["Workers", "reserve"]

_log = structlog.get_logger(__name__)
_BACK_OFF_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_STEADY_SECONDS: Final = 60.0
"""A worker that lived so long did not die of what it was started with."""
_TICK_SECONDS: Final = 0.5
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def reserve(host: str, port: int) -> socket.socket:
    """Bind an address that workers can bind as well, so that nobody else takes it meanwhile.

    Args:
        host: An address or a name.
        port: 0 takes a free one, which all workers then share.

    Raises:
        OSError: It is taken, or none of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


class Workers:
    """Forks workers, starts those again that die, and ends when it is told to.

    Use it in a process that has started neither threads nor an event loop.

    Args:
        count: How many.
        serve: What a worker does, given its place among its siblings; it returns when it is
            signalled.
    """

    def __init__(self, count: int, serve: Callable[[Siblings], None]) -> None:
        self._count = count
        self._serve = serve
        self._running: dict[int, tuple[int, float]] = {}
        """Process id -> place and start."""
        self._deaths = [0] * count
        """In a row, by place."""
        self._due = [0.0] * count
        """When a place may be filled again."""
        self._stopping = False

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, which the workers get too; a second one ends all at once."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tailrace-edge-")))
            self._alive, self._alive_end = os.pipe()
            stack.callback(os.close, self._alive)
            stack.callback(os.close, self._alive_end)
            for number in (signal.SIGTERM, signal.SIGINT):
                stack.callback(signal.signal, number, signal.signal(number, self._on_signal))
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
            while self._running or not self._stopping:
                if not self._stopping:
                    self._fill(folder)
                signal.sigtimedwait({signal.SIGCHLD}, _TICK_SECONDS)
                self._reap()

    def _fill(self, folder: Path) -> None:
        """Start a worker in each place that has none, unless the last one has just died."""
        filled = {place for place, _ in self._running.values()}
        for place in set(range(self._count)) - filled:
            if time.monotonic() >= self._due[place]:
                self._start(Siblings(folder, place, self._count, self._alive))

    def _start(self, siblings: Siblings) -> None:
        # A signal that comes before this process knows its child must reach the child as well.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        process = os.fork()
        if process == 0:
            self._be_worker(siblings)
        self._running[process] = (siblings.place, time.monotonic())
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        _log.info("worker started", worker=siblings.place, process=process)

    def _be_worker(self, siblings: Siblings) -> NoReturn:
        """Serve, and never return into the parent's code."""
        code = 1
        try:
            os.close(self._alive_end)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            self._serve(siblings)
            code = 0
        except Exception:  # noqa: BLE001 - the root of a process
            _log.exception("worker failed", worker=siblings.place)
        finally:
            os._exit(code)

    def _reap(self) -> None:
        """Note which workers have ended."""
        for process in tuple(self._running):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                self._ended(process, os.waitstatus_to_exitcode(status))

    def _ended(self, process: int, code: int) -> None:
        place, started = self._running.pop(process)
        if self._stopping:
            _log.info("worker ended", worker=place, code=code)
            return
        lived = time.monotonic() - started
        self._deaths[place] = 0 if lived >= _STEADY_SECONDS else self._deaths[place]
        wait = _BACK_OFF_SECONDS[min(self._deaths[place], len(_BACK_OFF_SECONDS) - 1)]
        self._deaths[place] += 1
        self._due[place] = time.monotonic() + wait
        _log.error("worker died", worker=place, code=code, again_in_seconds=wait)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Pass the first on as SIGTERM; the second one ends everything now."""
        for process in self._running:
            os.kill(process, signal.SIGKILL if self._stopping else signal.SIGTERM)
        if self._stopping:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._stopping = True
