"""The emitter: takes events on any thread, and sends them from one background thread.

The caller's thread only snapshots the payload. An `Outbox` holds what waits, an `Uplink` on a loop
of its own writes it to Kafka.
"""

import asyncio
import os
import secrets
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

import structlog

from tailrace.logs import RateLimit
from tailrace.producers import at_exit
from tailrace.producers.background import Background
from tailrace.producers.buffer import Buffer
from tailrace.producers.draft import draft_of
from tailrace.producers.kafka import BATCH_BYTES, Producer, partition_of
from tailrace.producers.lanes import Lanes
from tailrace.producers.outbox import Outbox, state_key
from tailrace.producers.scope import current_scope
from tailrace.producers.sequence import Sequence
from tailrace.producers.settings import ProducerSettings
from tailrace.producers.sinks import producer_of
from tailrace.producers.spool import Spool, sync
from tailrace.producers.spool_folder import left_for_others, queue_folder
from tailrace.producers.tracing import current_traceparent
from tailrace.producers.uplink import Uplink
from tailrace.schemas import ParameterError

__all__ = ["Emitter", "EmitterStats"]

_LOG_PERIOD = 60.0
_START_SECONDS = 5.0
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

    The background thread starts with the first event, or by `start`, so that the first event finds
    a connection. While Kafka cannot be reached events wait in
    the buffer, which is bounded; see `Buffer` for what is dropped when it is full. After a fork
    the child begins empty, with a source of its own: what the parent had taken, the parent sends.

    Use it as ``async with Emitter(settings) as emitter``, which starts it, or `close` it.

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
            queue_folder(settings.spool_dir, settings.topic, settings.bootstrap_servers),
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
        self._background = Background(self._main, on_end=self._outbox.release)
        self._starting = threading.Lock()
        self._unstarted = False
        self._held = False

    def start(self) -> None:
        """Connect, and send what dead processes left; returns at once.

        Before a fork it is better left to the children: each of them starts with its first event.
        """
        if self._background.thread is None and not self._closed:
            self._start()

    def emit(
        self,
        kind: str,
        project_id: object,
        event_type: object,
        payload: object,
        error: object = None,
        *,
        spread: bool | None = None,
    ) -> bool:
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

        Returns:
            Whether it was taken.
        """
        if self._closed:
            self._refuse("emitter", "it is closed")
            return False
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
            if self._background.thread is None:
                self._start()
            traceparent = current_traceparent()
            self._outbox.put(draft._replace(traceparent=traceparent) if traceparent else draft)
        except ParameterError as exc:
            self._refuse(exc.name, exc.reason)
            return False
        except Exception as exc:  # noqa: BLE001 - emitting must never make its caller fail
            self._refuse("internal", repr(exc))
            return False
        return True

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
        dropped = self.stats().dropped
        taken = self.emit(kind, project_id, event_type, payload, error)
        if not (taken and durable):
            return taken
        try:
            async with asyncio.timeout(timeout):
                return await self._flushed() and self.stats().dropped == dropped
        except TimeoutError:
            return False

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
        background = self._background
        if background.thread is None or background.is_current():
            return False
        done = threading.Event()
        watch = self._outbox.watch(done.set)
        try:
            return not background.ended.is_set() and done.wait(timeout) and watch.reached
        finally:
            self._outbox.unwatch(watch)

    async def _flushed(self) -> bool:
        """Be `flush` for one loop, with no thread that waits."""
        if not self._outbox.pending():
            return True
        background, loop = self._background, asyncio.get_running_loop()
        if background.thread is None or background.is_current():
            return False
        done = asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # That loop has just been closed.
                loop.call_soon_threadsafe(done.set)

        watch = self._outbox.watch(tell)
        try:
            if not background.ended.is_set():
                await done.wait()
            return watch.reached
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
        at_exit.unregister(self._at_exit)
        # Whoever gets this lock starts the thread; we take it so that nobody does any more.
        self._unstarted = self._unstarted or self._starting.acquire(blocking=False)
        background = self._background
        if not self._unstarted and background.running.wait(_START_SECONDS):
            last_try = timeout is None and self._spool.ready()
            background.call(lambda: self._uplink.hurry(last_try=last_try))
            background.ended.wait(self._settings.exit_ms / 1000 if timeout is None else timeout)
            background.end()
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
        self.start()
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
        try:
            self._background.start()
            at_exit.register(self._at_exit)
        except RuntimeError as exc:  # No more threads: events wait, the next one tries again.
            self._starting.release()
            if self._limit.allow("thread", time.monotonic()) is not None:
                _log.error("emitter_not_started", detail=str(exc))

    async def _main(self) -> None:
        """Be the background thread."""
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        self._outbox.wake = lambda: self._background.call(self._uplink.wake)
        if self._settings.sink == "kafka":
            self._adopt()
        self._spool.on_dirty = lambda: self._background.call(self._sync_later)
        self._sync_later()  # What was written before anyone listened.
        self._background.ready()
        await self._uplink.run()

    def _adopt(self) -> None:
        """Take over what dead processes left, and name what they left for other servers."""
        settings = self._settings
        self._outbox.adopt()
        queue = queue_folder(settings.spool_dir, settings.topic, settings.bootstrap_servers)
        for other in left_for_others(queue):
            _log.warning("spool_of_other_servers", folder=str(other), topic=settings.topic)

    def _sync_later(self) -> None:
        asyncio.get_running_loop().call_later(
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

        Nobody writes to the spool meanwhile: the child knows of every file that is open. Waits a
        second at most for each.
        """
        self._background.park(_FORK_SECONDS)
        self._held = self._outbox.hold(_FORK_SECONDS)

    def _go_on(self) -> None:
        self._background.go_on()
        if self._held:
            self._outbox.let_go()

    def _forget_parent(self) -> None:
        """Begin anew in a forked child."""
        self._spool.abandon()
        if self._background.thread is not None:
            # Finalizers would reach into sockets and the epoll set that the parent still uses.
            _inherited.append((self._background, self._uplink, self._outbox))
            at_exit.unregister(self._at_exit)
        self._begin()


_emitters: weakref.WeakSet[Emitter] = weakref.WeakSet()
_inherited: list[object] = []


def _before_fork() -> None:
    for emitter in list(_emitters):
        emitter._hold_still()  # noqa: SLF001 - the same module


def _after_fork_in_parent() -> None:
    for emitter in list(_emitters):
        emitter._go_on()  # noqa: SLF001 - the same module


def _after_fork_in_child() -> None:
    for emitter in list(_emitters):
        emitter._forget_parent()  # noqa: SLF001 - the same module


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
