"""A thread with an event loop of its own, which stands still while the process forks."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from tailrace.logs import quiet_driver

__all__ = ["Background"]

_CANCEL_SECONDS = 3.0


class Background:
    """Runs one coroutine on a daemon thread, once.

    Args:
        main: Makes the coroutine; it calls `ready` when it can be talked to.
        on_end: Called on the thread when it has ended, whatever the reason.
    """

    def __init__(
        self,
        main: Callable[[], Coroutine[Any, Any, None]],
        *,
        on_end: Callable[[], object],
    ) -> None:
        self._main = main
        self._on_end = on_end
        self._task: asyncio.Task[Any] | None = None
        self._go_on = threading.Event()
        self.thread: threading.Thread | None = None
        """None before `start`."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """None before it runs."""
        self.running = threading.Event()
        self.ended = threading.Event()

    def start(self) -> None:
        """Start the thread; after a RuntimeError (no more threads) it may be tried again."""
        self.thread = threading.Thread(target=self._run, name="tailrace-emitter", daemon=True)
        try:
            self.thread.start()
        except RuntimeError:
            self.thread = None
            raise

    def ready(self) -> None:
        """Say, from `main`, that `call` finds someone from now on."""
        self.running.set()

    def is_current(self) -> bool:
        """Tell whether this is the thread that asks."""
        return self.thread is threading.current_thread()

    def call(self, callback: Callable[[], object]) -> None:
        """Call something on the loop, from any thread; nothing happens before and after it runs."""
        with suppress(RuntimeError):  # The loop has just been closed.
            if self.loop is not None:
                self.loop.call_soon_threadsafe(callback)

    def end(self) -> None:
        """Cancel `main` and wait until the thread has ended, 3 s at most."""
        assert self._task is not None, "it runs"
        self.call(self._task.cancel)
        self.ended.wait(_CANCEL_SECONDS)

    def park(self, seconds: float) -> None:
        """Make the thread stand still until `go_on`, for so many seconds at most.

        A thread that is resolving a name cannot be parked: it is waited for as long, in vain.
        """
        if self.ended.is_set() or self.thread is None or self.is_current():
            return
        parked, go_on = threading.Event(), threading.Event()

        def stand_still() -> None:
            parked.set()
            go_on.wait(seconds)

        if self.running.wait(seconds):
            self.call(stand_still)
            parked.wait(seconds)
        self._go_on = go_on

    def go_on(self) -> None:
        """End what `park` began."""
        self._go_on.set()

    def _run(self) -> None:
        try:
            with (
                quiet_driver(),
                suppress(asyncio.CancelledError),
                asyncio.Runner(loop_factory=_Loop) as runner,
            ):
                runner.run(self._known())
        finally:
            self.ended.set()
            self._on_end()

    async def _known(self) -> None:
        self.loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        await self._main()


class _Loop(asyncio.SelectorEventLoop):
    """A loop that resolves names on its own thread.

    The executor that asyncio resolves names with takes no more work once the interpreter is
    exiting, which is when the last events are sent.
    """

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        return socket.getaddrinfo(*args, **kwargs)
