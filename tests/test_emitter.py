import asyncio
import os
import queue
import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from kafka_reading import read_topic
from memory_log import MemoryLog
from strategies import PROPERTY
from structlog.testing import capture_logs
from test_payload import anything

from tailrace.producers import Emitter, EmitterStats, ProducerSettings
from tailrace.producers.sinks import CallingProducer
from tailrace.schemas import EVENT_TYPES, Event, IngestJob, body_member, decode


class Log(NamedTuple):
    """A log to emit to, in memory or real, and how to read it."""

    emitter: Callable[..., Emitter]
    read: Callable[[], Awaitable[list[Event]]]


@contextmanager
def on_memory() -> Iterator[Log]:
    log = MemoryLog()

    async def read() -> list[Event]:
        return [decode(record.value) for _, record in log.written]

    def emitter(**settings: Any) -> Emitter:
        return Emitter(ProducerSettings(**settings), connect=log.connect)

    yield Log(emitter, read)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """The same tests run against the in-memory log and a real Kafka."""
    if request.param == "memory":
        with on_memory() as made:
            yield made
        return
    servers, topic = request.getfixturevalue("kafka"), request.getfixturevalue("topic")

    async def read() -> list[Event]:
        return [record.event for record in await read_topic(servers, topic)]

    def emitter(**settings: Any) -> Emitter:
        return Emitter(ProducerSettings(bootstrap_servers=servers, topic=topic, **settings))

    yield Log(emitter, read)


def numbers(events: list[Event], project: str) -> list[int]:
    return [orjson.loads(e.data)["n"] for e in events if e.project_id == project]


async def test_threads_keep_order_per_project_and_dense_numbers(log: Log) -> None:
    each = 50

    def work(emitter: Emitter, thread: int) -> None:
        for n in range(each):
            for project in range(20):
                payload = {"run_id": f"run{thread}", "n": n}
                emitter.emit("workflow", f"p{project}", "workflow.node.started", payload)

    async with log.emitter() as emitter:
        threads = [threading.Thread(target=work, args=(emitter, n)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert await asyncio.to_thread(emitter.flush, 60)
        stats = emitter.stats()
    runs: defaultdict[tuple[str, str | None], list[Event]] = defaultdict(list)
    for event in await log.read():
        runs[event.project_id, event.run_id].append(event)
    assert len(runs) == 160
    for events in runs.values():
        assert [e.seq for e in events] == list(range(1, each + 1))
        assert [orjson.loads(e.data)["n"] for e in events] == list(range(each))
        assert {e.source for e in events} == {emitter.source}
    assert (stats.emitted, stats.acknowledged, stats.waiting, stats.in_flight) == (8000, 8000, 0, 0)


async def test_event_arrives_as_it_was_at_the_call(log: Log) -> None:
    job = IngestJob(id="j", status="RUNNING", progress=0.1)
    node = {"nodeState": {"id": "n", "status": "RUNNING"}}
    async with log.emitter() as emitter:
        emitter.emit("ingest", "p", "ingest.job.updated", job)
        emitter.emit("workflow", "p", "workflow.node_state.updated", node)
        job.status = "DONE"
        job.progress = 1.0
        node["nodeState"]["status"] = "DONE"
    first, second = await log.read()
    assert (first.status, first.progress) == ("RUNNING", 0.1)
    assert orjson.loads(first.data)["job"]["status"] == "RUNNING"
    assert second.status == "RUNNING"
    assert orjson.loads(second.data) == {"nodeState": {"id": "n", "status": "RUNNING"}}


async def test_all_types_arrive(log: Log) -> None:
    async with log.emitter() as emitter:
        for event_type in EVENT_TYPES:
            kind = event_type.partition(".")[0]
            emitter.emit(kind, "p", event_type, IngestJob(id="j"), error="boom")
    events = await log.read()
    assert [e.type for e in events] == list(EVENT_TYPES)
    assert {e.error_message for e in events} == {"boom"}
    assert {e.kind for e in events} == {"ingest", "agent", "workflow"}


async def test_dicts_arrive_under_the_member_that_the_function_decides(log: Log) -> None:
    async with log.emitter() as emitter:
        for event_type in EVENT_TYPES:
            emitter.emit("agent", "under", event_type, {"id": "x"})
            emitter.emit("workflow", "top", event_type, {"id": "x"})
    events = await log.read()
    assert [orjson.loads(e.data) for e in events if e.project_id == "under"] == [
        {body_member(event_type): {"id": "x"}} for event_type in EVENT_TYPES
    ]
    assert {e.data for e in events if e.project_id == "top"} == {'{"id":"x"}'}


def test_several_event_loops_of_one_process_share_an_emitter(log: Log) -> None:
    emitter = log.emitter()

    async def service(start: int) -> None:
        for n in range(start, start + 10):
            emitter.emit("workflow", "p", "workflow.run.updated", {"id": "r", "n": n})
        await asyncio.to_thread(emitter.flush, 60)

    for start in (0, 10, 20):
        asyncio.run(service(start))
    emitter.emit("workflow", "p", "workflow.run.completed", {"id": "r", "n": 30})
    assert emitter.close(60)
    assert numbers(asyncio.run(_awaited(log.read)), "p") == list(range(31))


async def _awaited(read: Callable[[], Awaitable[list[Event]]]) -> list[Event]:
    return await read()


async def test_payload_that_kafka_could_not_carry_arrives_reduced(log: Log) -> None:
    cycle: dict[str, object] = {"id": "c", "status": "RUNNING", "blob": b"\xff"}
    cycle["self"] = cycle
    async with log.emitter() as emitter:
        emitter.emit("ingest", "p", "ingest.job.completed", cycle)
        emitter.emit("ingest", "p", "ingest.job.completed", {"id": "l", "x": "y" * 900_000})
        emitter.emit("ingest", "p", "ingest.job.completed", None)
        emitter.emit("agent", "p", "agent.step.updated", {"id": "s\ud800", "run_id": "r\ud800"})
        emitter.emit("ingest", "p", "ingest.job.completed", {"id": "ok"})
        assert await asyncio.to_thread(emitter.flush, 60)
        assert emitter.stats().reduced == 4
    events = await log.read()
    assert [orjson.loads(e.data) for e in events] == [
        {"job": {"id": "c", "status": "RUNNING", "_omitted": "not_json"}},
        {"job": {"id": "l", "_omitted": "too_large"}},
        {"job": {"_omitted": "unsupported"}},
        {"step": {"id": "s?", "run_id": "r?", "_omitted": "not_json"}},
        {"job": {"id": "ok"}},
    ]


# What needs no real Kafka.


class Memory:
    """An emitter on a memory log."""

    def __init__(self, log: MemoryLog, **settings: Any) -> None:
        self.emitter = Emitter(ProducerSettings(**settings), connect=log.connect)
        self.log = log

    def emit(self, n: int, event_type: str = "workflow.node.started", project: str = "p") -> None:
        self.emitter.emit("workflow", project, event_type, {"run_id": "r", "n": n})

    def numbers(self) -> list[int]:
        return numbers([decode(record.value) for _, record in self.log.written], "p")


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory(MemoryLog())
    yield made
    made.log.up.set()
    made.emitter.close(10)


def test_nothing_runs_before_the_first_event(memory: Memory) -> None:
    threads = threading.active_count()
    assert memory.emitter.flush(0)
    assert memory.emitter.stats() == EmitterStats(*[0] * len(EmitterStats._fields))
    assert threading.active_count() == threads
    assert memory.log.started == 0


async def test_emitter_in_use_is_connected_before_its_first_event(memory: Memory) -> None:
    async with memory.emitter:
        assert await asyncio.to_thread(memory.log.attempted.wait, 10)
        assert memory.emitter.stats().emitted == 0
    assert memory.log.started == memory.log.stopped == 1


def test_started_emitter_sends_what_a_dead_process_left_without_an_event(memory: Memory) -> None:
    memory.log.up.clear()
    memory.emit(1)
    assert not memory.emitter.close(0)
    memory.log.up.set()
    later = Memory(memory.log)
    later.emitter.start()
    assert later.emitter._background.running.wait(10)
    assert later.emitter.flush(10)
    assert memory.numbers() == [1]
    assert later.emitter.close(10)


def test_events_wait_for_an_absent_broker_and_arrive(memory: Memory) -> None:
    memory.log.up.clear()
    for n in range(100):
        memory.emit(n)
    assert memory.log.attempted.wait(10)
    assert not memory.emitter.flush(0)
    assert memory.emitter.stats().waiting == 100
    memory.log.up.set()
    assert memory.emitter.flush(60)
    assert memory.numbers() == list(range(100))


def test_flush_covers_what_was_emitted_before_it_only(memory: Memory) -> None:
    memory.emit(1)
    assert memory.emitter.flush(10)
    memory.log.up.clear()
    memory.emit(2)
    assert not memory.emitter.flush(0)
    assert memory.numbers() == [1]


def test_flush_on_the_background_thread_does_not_wait_for_itself(memory: Memory) -> None:
    answers: list[bool] = []
    memory.log.up.clear()
    memory.emit(1)
    assert memory.emitter._background.running.wait(10)
    done = threading.Event()

    def inside() -> None:
        answers.append(memory.emitter.flush())
        done.set()

    memory.emitter._background.call(inside)
    assert done.wait(10)
    assert answers == [False]


@pytest.mark.parametrize("project", [None, "", b"p", [], "\ud800"])
def test_wrong_project_is_refused_counted_and_logged_once(memory: Memory, project: object) -> None:
    with capture_logs() as lines:
        for _ in range(3):
            memory.emitter.emit("ingest", project, "ingest.job.created", IngestJob(id="j"))
    assert memory.emitter.stats().refused == 3
    assert memory.emitter.stats().emitted == 0
    (line,) = lines
    assert (line["event"], line["argument"]) == ("event_refused", "project_id")


@PROPERTY
@given(anything, anything, anything, anything, anything)
def test_no_arguments_make_it_raise(
    kind: object, project: object, event_type: object, payload: object, error: object
) -> None:
    log = MemoryLog()
    emitter = Emitter(ProducerSettings(linger_ms=0), connect=log.connect)
    emitter.emit(kind, project, event_type, payload, error)  # type: ignore[arg-type]
    emitter.emit("ingest", "p", "ingest.job.created", payload, error)
    assert emitter.close(10)
    assert isinstance(orjson.loads(decode(log.written[-1][1].value).data), dict)


def test_logging_that_fails_is_not_the_callers_trouble(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def warning(self, *_args: object, **_fields: object) -> None:
            raise ValueError("I/O operation on closed file")

    monkeypatch.setattr("tailrace.producers.emitter._log", Broken())
    memory.emitter.emit("ingest", None, "x", None)
    assert memory.emitter.stats().refused == 1


def test_closed_emitter_refuses_and_does_not_raise(memory: Memory) -> None:
    memory.emit(1)
    assert memory.emitter.close(10)
    memory.emit(2)
    assert memory.emitter.stats().refused == 1
    assert memory.emitter.close(10)
    assert memory.numbers() == [1]
    assert memory.log.started == memory.log.stopped == 1


@pytest.mark.parametrize("timeout", [0, None])
def test_close_leaves_to_the_next_emitter_what_is_not_acknowledged(
    memory: Memory, timeout: float | None
) -> None:
    memory.log.up.clear()
    memory.emit(1)
    assert memory.log.attempted.wait(10)
    with capture_logs() as lines:
        assert not memory.emitter.close(timeout)
    assert memory.emitter._background.ended.is_set()
    assert "events_left_in_spool" in [line["event"] for line in lines]
    assert memory.emitter.stats().spooled == 1
    memory.log.up.set()
    later = Memory(memory.log)
    later.emit(2)
    assert later.emitter.close(60)
    assert memory.numbers() == [1, 2]
    assert later.emitter.stats().replayed == 1
    assert later.emitter.stats().spooled_bytes == 0


def test_close_without_a_spool_says_how_much_is_lost() -> None:
    memory = Memory(MemoryLog(), spool_max_bytes=0)
    memory.log.up.clear()
    memory.emit(1)
    assert memory.log.attempted.wait(10)
    with capture_logs() as lines:
        assert not memory.emitter.close(0)
    assert [line["events"] for line in lines if line["event"] == "events_not_delivered"] == [1]


def test_exit_does_not_wait_for_a_broker_that_is_away() -> None:
    memory = Memory(MemoryLog(), exit_ms=3_600_000)
    memory.log.up.clear()
    memory.emit(1)
    assert not memory.emitter.close()
    assert memory.emitter.stats().spooled == 1


def test_flush_ends_when_the_emitter_is_closed_meanwhile(memory: Memory) -> None:
    memory.log.up.clear()
    memory.emit(1)
    assert memory.log.attempted.wait(10)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(memory.emitter.flush()))
    thread.start()
    memory.emitter.close(0)
    thread.join(10)
    assert answers == [False]
    assert not memory.emitter.flush()


def test_no_thread_starts_once_it_is_closed(memory: Memory) -> None:
    memory.emitter.close()
    memory.emitter._start()
    assert memory.emitter._background.thread is None


def test_host_out_of_threads_is_not_failed_and_events_wait(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(threading.Thread, "start", refuse)
        memory.emit(1)
        assert not memory.emitter.flush(0)
    assert [line["event"] for line in lines] == ["emitter_not_started"]
    memory.emit(2)
    assert memory.emitter.flush(10)
    assert memory.numbers() == [1, 2]


def test_close_ends_a_back_off(memory: Memory) -> None:
    memory.log.up.clear()
    memory.emit(1)
    assert memory.log.attempted.wait(10)
    memory.log.up.set()
    assert memory.emitter.close(60)
    assert memory.numbers() == [1]


def test_full_buffer_keeps_facts_and_numbers_stay_dense() -> None:
    memory = Memory(MemoryLog(), buffer_max_events=10)
    memory.log.up.clear()
    for n in range(50):
        memory.emit(n, "workflow.run.updated")
    memory.emit(50, "workflow.node.started")
    assert memory.log.attempted.wait(10)
    memory.log.up.set()
    assert memory.emitter.close(60)
    assert memory.numbers() == [0, 1, 2, 3, 4, *range(46, 51)]
    assert memory.emitter.stats().conflated == 41
    assert [decode(r.value).seq for _, r in memory.log.written] == list(range(1, 11))


def test_event_in_traffic_is_found_without_a_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.producers.uplink._QUIET_SECONDS", 3600)
    seen: queue.Queue[Event] = queue.Queue()
    emitter = Emitter(ProducerSettings(), connect=lambda _: CallingProducer(seen.put))
    emitter.emit("custom", "p", "my.type", {"n": 0})
    assert seen.get(timeout=10)
    woken: list[int] = []
    emitter._outbox.wake = lambda: woken.append(1)
    for n in range(1, 50):
        emitter.emit("custom", "p", "my.type", {"n": n})
        assert orjson.loads(seen.get(timeout=10).data) == {"n": n}
    assert woken == []
    assert emitter.close(10)


def test_no_wake_up_is_lost_however_soon_the_loop_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.producers.uplink._QUIET_SECONDS", 0)
    seen: queue.Queue[Event] = queue.Queue()
    emitter = Emitter(ProducerSettings(), connect=lambda _: CallingProducer(seen.put))

    def ping(project: str) -> None:
        for n in range(300):
            emitter.emit("custom", project, "my.type", {"n": n})
            assert seen.get(timeout=10)

    threads = [threading.Thread(target=ping, args=(project,)) for project in "pqr"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (emitter.stats().acknowledged, seen.qsize()) == (900, 0)
    assert emitter.close(10)


def test_every_emitter_is_a_source_of_its_own() -> None:
    first, second = Emitter(ProducerSettings(source="svc")), Emitter(ProducerSettings(source="svc"))
    assert first.source != second.source
    assert first.source.startswith(f"svc/{os.getpid()}-")


def test_forked_child_sends_only_what_it_emits(memory: Memory) -> None:
    memory.log.up.clear()
    memory.emit(1)
    assert memory.emitter._background.running.wait(10)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _as_child(memory, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = orjson.loads(pipe.read())
    assert os.waitpid(child, 0)[1] == 0
    memory.log.up.set()
    assert memory.emitter.flush(60)
    assert memory.numbers() == [1]
    assert told["numbers"] == [2]
    assert told["source"] != memory.emitter.source
    assert told["seq"] == [1]


def test_fork_with_an_open_spool_leaves_it_to_the_parent(tmp_path: Path) -> None:
    memory = Memory(MemoryLog(), buffer_max_events=10)
    memory.log.up.clear()
    for n in range(50):
        memory.emit(n)
    assert memory.emitter._background.running.wait(10)
    assert memory.emitter.stats().spooled == 40
    before = _segments(tmp_path)
    (read, write), (wait, go_on) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for n in range(100, 150):
                memory.emit(n)
            memory.emitter.close(0)
            told = {
                "parents": before == _segments(tmp_path, before),
                "spooled": memory.emitter.stats().spooled,
            }
            os.write(write, orjson.dumps(told))
            os.close(write)
            os.close(go_on)
            os.read(wait, 1)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert orjson.loads(pipe.read()) == {"parents": True, "spooled": 50}
    # The parent lives and holds its lock; what the child has left is anybody's.
    assert _adopted_by_an_heir() == list(range(100, 150))
    # The child lives and has no hold on what the parent leaves.
    assert not memory.emitter.close(0)
    assert _adopted_by_an_heir() == list(range(50))
    os.close(go_on)
    assert os.waitpid(child, 0)[1] == 0
    os.close(wait)
    assert _segments(tmp_path) == {}


def _adopted_by_an_heir() -> list[int]:
    heir = Memory(MemoryLog())
    heir.emitter.start()
    assert heir.emitter._background.running.wait(10)
    assert heir.emitter.close(60)
    return heir.numbers()


def _segments(folder: Path, among: Iterable[str] | None = None) -> dict[str, int]:
    found = {str(path): path.stat().st_size for path in folder.rglob("*.segment")}
    return {path: size for path, size in found.items() if among is None or path in among}


def _as_child(memory: Memory, write: int) -> None:
    """Emit in the child, tell the parent what was written, and end without any clean-up."""
    try:
        memory.log.up = threading.Event()
        memory.log.up.set()
        memory.emit(2)
        memory.emitter.flush(30)
        events = [decode(record.value) for _, record in memory.log.written]
        answer = {
            "numbers": numbers(events, "p"),
            "seq": [event.seq for event in events],
            "source": memory.emitter.source,
        }
        os.write(write, orjson.dumps(answer))
    finally:
        os._exit(0)


async def test_parent_and_forked_child_both_reach_kafka(kafka: str, topic: str) -> None:
    async with Emitter(ProducerSettings(bootstrap_servers=kafka, topic=topic)) as emitter:
        for n in range(50):
            emitter.emit("workflow", "p", "workflow.node.started", {"n": n})
        await asyncio.to_thread(emitter.flush, 30)
        emitter.emit("workflow", "p", "workflow.node.started", {"n": 50})
        child = os.fork()
        if child == 0:
            emitter.emit("workflow", "p", "workflow.node.started", {"n": 100})
            os._exit(0 if emitter.flush(30) else 1)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert status == 0
        emitter.emit("workflow", "p", "workflow.node.started", {"n": 51})
    by_source = defaultdict(list)
    for record in await read_topic(kafka, topic):
        by_source[record.event.source].append(orjson.loads(record.event.data)["n"])
    assert by_source.pop(emitter.source) == list(range(52))
    assert list(by_source.values()) == [[100]]


def test_interpreter_exits_in_time_without_a_broker_and_warns_of_nothing() -> None:
    script = """
        from tailrace.producers import emit_ingest_event
        emit_ingest_event("p", "ingest.job.created", {"id": "j"})
        """
    ended = _python(script, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", TAILRACE_EXIT_MS="10")
    assert "events_left_in_spool" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "Warning" not in ended.stderr


async def test_interpreter_that_ends_by_a_crash_sends_what_waits(kafka: str, topic: str) -> None:
    script = """
        import threading
        from tailrace.producers import emit_ingest_event

        def crash():
            emit_ingest_event("p", "ingest.job.created", {"id": "j", "n": 0})
            raise ZeroDivisionError

        threading.excepthook = lambda _: None
        thread = threading.Thread(target=crash)
        thread.start()
        thread.join()
        try:
            1 / 0
        finally:
            for n in range(1, 100):
                emit_ingest_event("p", "ingest.job.created", {"id": "j", "n": n})
        """
    environment = {"KAFKA_BOOTSTRAP_SERVERS": kafka, "TAILRACE_TOPIC": topic}
    with pytest.raises(subprocess.CalledProcessError) as caught:
        await asyncio.to_thread(_python, script, TAILRACE_EXIT_MS="30000", **environment)
    assert caught.value.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert [record.event.seq for record in await read_topic(kafka, topic)] == list(range(1, 101))


async def test_interpreter_sends_what_waits_before_it_exits(kafka: str, topic: str) -> None:
    script = """
        from tailrace.producers import emit_ingest_event
        for n in range(100):
            emit_ingest_event("p", "ingest.job.created", {"id": "j", "n": n})
        """
    environment = {"KAFKA_BOOTSTRAP_SERVERS": kafka, "TAILRACE_TOPIC": topic}
    ended = await asyncio.to_thread(_python, script, TAILRACE_EXIT_MS="30000", **environment)
    # asyncio's development mode tells of every callback that a busy machine makes slow.
    told = [line for line in ended.stderr.splitlines() if not line.startswith("Executing <")]
    assert told == []
    assert [record.event.seq for record in await read_topic(kafka, topic)] == list(range(1, 101))


def _python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(script)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
