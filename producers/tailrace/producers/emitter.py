"""The emitter: takes events on any thread, and sends them from one background thread.

The caller's thread only snapshots the payload. An `Outbox` holds what waits, an `Uplink` on a loop
of its own writes it to Kafka.
"""

import asyncio
import atexit
import os
import secrets
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

import structlog

from tailrace.producers.buffer import Buffer
from tailrace.producers.draft import draft_of
from tailrace.producers.driverlog import quiet_driver
from tailrace.producers.kafka import BATCH_BYTES, Producer, partition_of
from tailrace.producers.lanes import Lanes
from tailrace.producers.outbox import Outbox, state_key
from tailrace.producers.ratelimit import RateLimit
from tailrace.producers.scope import current_scope
from tailrace.producers.sequence import Sequence
from tailrace.producers.settings import ProducerSettings
from tailrace.producers.sinks import producer_of
from tailrace.producers.spool import Spool, sync
from tailrace.producers.tracing import current_traceparent
from tailrace.producers.uplink import Uplink
from tailrace.schemas import ParameterError

__all__ = ["Emitter", "EmitterStats"]

_LOG_PERIOD = 60.0
_START_SECONDS = 5.0
_CANCEL_SECONDS = 3.0
_FORK_SECONDS = 1.0

_log = structlog.get_logger("tailrace.producers")


class EmitterStats(NamedTuple):
    """Counts since the emitter was made; in a forked child, since the fork."""

    emitted: int
    """Events taken from callers."""
    acknowledged: int
    """Events that all in-sync replicas have."""
    waiting: int
    """Events in the buffer."""
    waiting_bytes: int
    in_flight: int
    """Events that have left the buffer and are not acknowledged."""
    conflated: int
    """States that made room in a full buffer because a newer one stands for them."""
    dropped: int
    """Events that fell to the buffer's bound, or that Kafka refused for good."""
    refused: int
    """Calls with wrong arguments, or after `close`: nothing was taken."""
    reduced: int
    """Events sent without their body: not JSON, too large, or no model, dataclass or dict."""
    lost_members: int
    """Events whose payload held members of a reserved name, sent without those."""
    retries: int
    """Batches that failed and were sent again by another producer."""
    spooled: int
    """Events written to the spool."""
    spooled_bytes: int
    """Size of what is in the spool and Kafka may not have, of dead processes included."""
    replayed: int
    """Events that have left the spool because Kafka has them."""


class Emitter:
    """Sends events to Kafka, in order per project, without its callers' noticing.

    The background thread starts with the first event. While Kafka cannot be reached events wait in
    the buffer, which is bounded; see `Buffer` for what is dropped when it is full. After a fork
    the child begins empty, with a source of its own: what the parent had taken, the parent sends.

    Use it as ``async with Emitter(settings) as emitter``, or `close` it.

    Args:
        settings: Where to send; from the environment by default.
        connect: Makes the producer on the background loop; for tests.
    """

    def __init__(
        self,
        settings: ProducerSettings | None = None,
        *,
        connect: Callable[[ProducerSettings], Producer] = producer_of,
    ) -> None:
        self._settings = settings or ProducerSettings()
        self._connect = connect
        self._closed = False
        self._begin()
        _emitters.add(self)

    def _begin(self) -> None:
        settings = self._settings
        self.source = f"{settings.source}/{os.getpid()}-{secrets.token_hex(4)}"
        self._buffer = Buffer(
            max_events=settings.buffer_max_events,
            max_bytes=settings.buffer_max_bytes,
            key_of=state_key,
        )
        self._spool = Spool(
            settings.spool_dir,
            settings.topic,
            max_bytes=settings.spool_max_bytes if settings.sink == "kafka" else 0,
        )
        self._lanes = Lanes(partition_of, batch_bytes=BATCH_BYTES)
        self._outbox = Outbox(self._buffer, self._lanes, Sequence(self.source), self._spool)
        self._uplink = Uplink(
            self._lanes,
            self._outbox,
            connect=lambda: self._connect(settings),
            linger=settings.linger_ms / 1000,
        )
        self._refusals: Counter[str] = Counter()
        self._limit = RateLimit(_LOG_PERIOD)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._unstarted = False
        self._running = threading.Event()
        self._ended = threading.Event()
        self._go_on = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def emit(
        self,
        kind: str,
        project_id: object,
        event_type: object,
        payload: object,
        error: object = None,
        *,
        spread: bool | None = None,
    ) -> None:
        """Take one event; returns within microseconds and never raises.

        The payload is snapshotted now. A call that cannot become an event (a project or a type
        that is none) is counted as refused and logged, at most once a minute per reason.

        Args:
            kind: The family of run: ``ingest``, ``agent``, ``workflow`` or ``custom``.
            project_id: The project; an int or UUID is taken as its text.
            event_type: A dotted lower-case name.
            payload: A pydantic model, a dataclass or a mapping. Anything else is sent reduced to
                the ids, status, stage and progress that it has as attributes.
            error: The error message, or the exception whose message it is.
            spread: Whether a mapping puts its own members at the top level of the event instead of
                under the type's member; by default those of ``workflow`` and ``custom`` do.
        """
        if self._closed:
            self._refuse("emitter", "it is closed")
            return
        try:
            draft = draft_of(
                kind,
                project_id,
                event_type,
                payload,
                error,
                occurred_at=time.time_ns() // 1000,
                scope=current_scope(),
                max_bytes=self._settings.max_event_bytes,
                spread=spread,
            )
            if self._thread is None:
                self._start()
            traceparent = current_traceparent()
            self._outbox.put(draft._replace(traceparent=traceparent) if traceparent else draft)
        except ParameterError as exc:
            self._refuse(exc.name, exc.reason)
        except Exception as exc:  # noqa: BLE001 - emitting must never make its caller fail
            self._refuse("internal", repr(exc))

    async def aemit(
        self,
        kind: str,
        project_id: object,
        event_type: object,
        payload: object,
        error: object = None,
        *,
        durable: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109 - the same as `flush`
    ) -> bool:
        """Emit an event and, where `durable`, wait until all in-sync replicas have it.

        It waits for what was emitted before as well, and never raises either.

        Args:
            kind: This and the next four are those of `emit`.
            project_id: See there.
            event_type: See there.
            payload: See there.
            error: See there.
            durable: False waits for nothing.
            timeout: Seconds to wait at most; None waits for as long as it takes.

        Returns:
            False when it was refused, when time is up, or when any event was dropped meanwhile.
        """
        before = self.stats()
        self.emit(kind, project_id, event_type, payload, error)
        if self.stats().refused != before.refused:
            return False
        if not durable:
            return True
        flushed = await asyncio.to_thread(self.flush, timeout)
        return flushed and self.stats().dropped == before.dropped

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything that was emitted before is acknowledged.

        Blocks the calling thread: from async code use ``await asyncio.to_thread(flush, 5)``.

        Args:
            timeout: Seconds to wait at most; None waits for as long as it takes.

        Returns:
            True when nothing emitted before is waiting any more; what was dropped or refused is
            not waited for, see `stats`.
        """
        if not self._outbox.pending():
            return True
        if self._thread in {None, threading.current_thread()}:
            return False
        watch = self._outbox.watch()
        try:
            return not self._ended.is_set() and watch.done.wait(timeout) and watch.reached
        finally:
            self._outbox.unwatch(watch)

    def close(self, timeout: float | None = None) -> bool:
        """Take no more events, send what waits, and end the background thread.

        Args:
            timeout: Seconds to send for at most. By default `exit_ms`, and less where the cluster
                is away. What is not acknowledged then goes into the spool, and the next process
                with that spool sends it; what the spool does not take is lost, and logged.

        Returns:
            True when everything was acknowledged.
        """
        self._closed = True
        self._outbox.closing = True
        atexit.unregister(self._at_exit)
        # Whoever gets this lock starts the thread; we take it so that nobody does any more.
        self._unstarted = self._unstarted or self._starting.acquire(blocking=False)
        if not self._unstarted and self._running.wait(_START_SECONDS):
            assert self._task is not None
            last_try = timeout is None and self._spool.ready()
            self._on_loop(lambda: self._uplink.hurry(last_try=last_try))
            self._ended.wait(self._settings.exit_ms / 1000 if timeout is None else timeout)
            self._on_loop(self._task.cancel)
            self._ended.wait(_CANCEL_SECONDS)
        delivered = not self._outbox.pending()
        self._keep()
        return delivered

    def _keep(self) -> None:
        """Leave what is not acknowledged to the next process."""
        lost = self._outbox.keep()
        topic = self._settings.topic
        if lost:
            _log.error("events_not_delivered", events=lost, topic=topic)
        if self._spool.bytes:
            _log.warning("events_left_in_spool", bytes=self._spool.bytes, topic=topic)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)

    def stats(self) -> EmitterStats:
        """Return the counts of this moment."""
        outbox, uplink = self._outbox, self._uplink
        return EmitterStats(
            emitted=self._buffer.accepted,
            acknowledged=uplink.acknowledged,
            waiting=len(self._buffer),
            waiting_bytes=self._buffer.bytes,
            in_flight=self._lanes.events,
            conflated=self._buffer.conflated,
            dropped=self._buffer.dropped + uplink.dropped + outbox.broken,
            refused=self._refusals.total(),
            reduced=outbox.reduced + uplink.reduced,
            lost_members=outbox.lost_members,
            retries=uplink.retries,
            spooled=self._spool.spooled,
            spooled_bytes=self._spool.bytes,
            replayed=self._spool.replayed,
        )

    def _refuse(self, name: str, reason: str) -> None:
        # Logging runs the host's own handlers and streams, which may fail as well.
        with suppress(Exception):
            self._refusals[name] += 1
            held = self._limit.allow(name, time.monotonic())
            if held is not None:
                _log.warning("event_refused", argument=name, reason=reason[:300], more=held)

    def _start(self) -> None:
        """Start the background thread; a second caller leaves that to the first."""
        if not self._starting.acquire(blocking=False):
            return
        self._thread = threading.Thread(target=self._run, name="tailrace-emitter", daemon=True)
        try:
            self._thread.start()
            atexit.register(self._at_exit)
        except RuntimeError as exc:  # No more threads: events wait, the next one tries again.
            self._thread = None
            self._starting.release()
            if self._limit.allow("thread", time.monotonic()) is not None:
                _log.error("emitter_not_started", detail=str(exc))

    def _run(self) -> None:
        """Be the background thread."""
        try:
            with (
                quiet_driver(),
                suppress(asyncio.CancelledError),
                asyncio.Runner(loop_factory=_Loop) as runner,
            ):
                runner.run(self._background())
        finally:
            self._ended.set()
            self._outbox.release()

    async def _background(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        self._loop, self._task = loop, asyncio.current_task()
        self._outbox.wake = lambda: self._on_loop(self._uplink.wake)
        if self._settings.sink == "kafka":
            self._outbox.adopt()
        self._spool.on_dirty = lambda: self._on_loop(self._sync_later)
        self._sync_later()  # What was written before anyone listened.
        self._running.set()
        await self._uplink.run()

    def _on_loop(self, callback: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # The loop has just been closed.
            if self._loop is not None:
                self._loop.call_soon_threadsafe(callback)

    def _sync_later(self) -> None:
        assert self._loop is not None
        self._loop.call_later(
            self._settings.spool_sync_ms / 1000, lambda: sync(self._outbox.unsynced())
        )

    def _on_loop_error(self, _loop: object, context: dict[str, Any]) -> None:
        """Log what aiokafka's own tasks and futures leave behind."""
        message = str(context.get("message"))
        if self._limit.allow(message, time.monotonic()) is not None:
            _log.warning("driver_error", detail=message, exc_info=context.get("exception"))

    def _at_exit(self) -> None:
        self.close()

    def _hold_still(self) -> None:
        """Park the background thread for a fork, so that the child inherits no lock it holds.

        Waits a second at most: a thread that is resolving a name cannot be parked.
        """
        if self._ended.is_set() or self._thread in {None, threading.current_thread()}:
            return
        parked, go_on = threading.Event(), threading.Event()

        def park() -> None:
            parked.set()
            go_on.wait(_FORK_SECONDS)

        if self._running.wait(_FORK_SECONDS):
            self._on_loop(park)
            parked.wait(_FORK_SECONDS)
        self._go_on = go_on

    def _forget_parent(self) -> None:
        """Begin anew in a forked child."""
        if self._thread is not None:
            # Finalizers would reach into sockets and the epoll set that the parent still uses.
            self._spool.abandon()
            _inherited.append((self._thread, self._loop, self._task, self._uplink, self._outbox))
            atexit.unregister(self._at_exit)
        self._begin()


class _Loop(asyncio.SelectorEventLoop):
    """A loop that resolves names on its own thread.

    The executor that asyncio resolves names with takes no more work once the interpreter is
    exiting, which is when the last events are sent.
    """

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        return socket.getaddrinfo(*args, **kwargs)


_emitters: weakref.WeakSet[Emitter] = weakref.WeakSet()
_inherited: list[object] = []


def _before_fork() -> None:
    for emitter in list(_emitters):
        emitter._hold_still()  # noqa: SLF001 - the same module


def _after_fork_in_parent() -> None:
    for emitter in list(_emitters):
        emitter._go_on.set()  # noqa: SLF001 - the same module


def _after_fork_in_child() -> None:
    for emitter in list(_emitters):
        emitter._forget_parent()  # noqa: SLF001 - the same module


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
