import inspect
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import orjson
import pytest
from memory_log import MemoryLog
from structlog.testing import capture_logs

from tailrace import producers
from tailrace.producers import (
    Emitter,
    ProducerSettings,
    StreamingService,
    configure,
    emit,
    emit_agent_event,
    emit_ingest_event,
    emit_workflow_event,
    flush,
    run_scope,
    stats,
)
from tailrace.schemas import (
    AgentNodeState,
    AgentRun,
    AgentStep,
    Event,
    IngestJob,
    ParameterError,
    WorkflowRun,
    decode,
)

Function = Callable[..., None]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryLog]:
    """The process's emitter writes to this log during the test."""
    made = MemoryLog()
    process = emit._Process()
    process.replace(Emitter(ProducerSettings(), connect=made.connect))
    monkeypatch.setattr(emit, "_process", process)
    yield made
    emitter = process.current()
    assert emitter is not None
    emitter.close(10)


def events(log: MemoryLog) -> list[Event]:
    assert flush(10)
    return [decode(record.value) for _, record in log.written]


def test_public_names_are_those_of_the_contract() -> None:
    assert {
        "emit_ingest_event",
        "emit_agent_event",
        "emit_workflow_event",
        "StreamingService",
        "run_scope",
        "configure",
        "flush",
    } <= set(producers.__all__)
    for name in producers.__all__:
        assert getattr(producers, name) is not None


@pytest.mark.parametrize("function", [emit_ingest_event, emit_agent_event, emit_workflow_event])
def test_emit_functions_are_plain_functions_of_four_arguments(function: Function) -> None:
    assert not inspect.iscoroutinefunction(function)
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:2] == ["project_id", "event_type"]
    assert list(parameters)[3] == "error"
    assert parameters["error"].default is None
    method = getattr(StreamingService(), function.__name__)
    assert list(inspect.signature(method).parameters) == list(parameters)


def test_function_decides_the_kind(log: MemoryLog) -> None:
    state = AgentNodeState(id="n", run_id="r", node="fetch", status="RUNNING")
    emit_ingest_event("p", "ingest.job.created", IngestJob(id="j"))
    emit_agent_event("p", "workflow.node_state.updated", state)
    emit_workflow_event("p", "workflow.node_state.updated", state)
    assert [(e.kind, e.run_id, e.entity_id, e.stage) for e in events(log)] == [
        ("ingest", "j", "j", None),
        ("agent", "r", "n", "fetch"),
        ("workflow", "r", "n", "fetch"),
    ]


def test_services_of_the_specification_emit_what_they_should(log: MemoryLog) -> None:
    service = StreamingService()
    run = AgentRun(id="r", project_id="p", status="RUNNING")
    state = AgentNodeState(id="n", run_id="r", node="search", status="DONE")
    step = AgentStep(id="s", run_id="r", name="plan", node_states=[state])
    service.emit_agent_event("p", "agent.run.created", run)
    service.emit_agent_event("p", "agent.step.updated", step)
    service.emit_agent_event("p", "workflow.node_state.updated", state)
    service.emit_agent_event("p", "agent.run.failed", run, error="boom")
    service.emit_workflow_event("p", "workflow.run.created", WorkflowRun(id="w"))
    service.emit_ingest_event("p", "ingest.job.failed", IngestJob(id="j"), error=ValueError("bad"))
    found = events(log)
    assert [next(iter(orjson.loads(e.data))) for e in found] == [
        "run",
        "step",
        "nodeState",
        "run",
        "run",
        "job",
    ]
    assert [(e.kind, e.run_id, e.seq) for e in found] == [
        ("agent", "r", 1),
        ("agent", "r", 2),
        ("agent", "r", 3),
        ("agent", "r", 4),
        ("workflow", "w", 1),
        ("ingest", "j", 1),
    ]
    assert [e.error_message for e in found] == [None, None, None, "boom", None, "bad"]
    assert found[1].stage == "plan"


def test_reserved_member_never_overrides_the_envelope(log: MemoryLog) -> None:
    payload = {"type": "x", "timestamp": "y", "cursor": "z", "errorMessage": "e", "id": "r"}
    emit_workflow_event("p", "workflow.run.updated", payload)
    (event,) = events(log)
    assert (event.type, event.data, event.error_message) == (
        "workflow.run.updated",
        '{"id":"r"}',
        None,
    )


def test_dataclass_of_the_host_works_like_a_model(log: MemoryLog) -> None:
    @dataclass
    class Job:
        id: int
        status: str

    emit_ingest_event("p", "ingest.job.updated", Job(7, "RUNNING"))
    (event,) = events(log)
    assert (event.run_id, event.status) == ("7", "RUNNING")
    assert event.data == '{"job":{"id":7,"status":"RUNNING"}}'


def test_scope_gives_the_run(log: MemoryLog) -> None:
    with run_scope("r", kind="agent"):
        emit_workflow_event("p", "workflow.node.started", {"node": "fetch"})
    emit_workflow_event("p", "workflow.node.started", {"node": "fetch"})
    assert [(e.kind, e.run_id) for e in events(log)] == [("agent", "r"), ("workflow", None)]


def test_given_emitter_is_used_instead_of_the_process_one(log: MemoryLog) -> None:
    other = MemoryLog()
    emitter = Emitter(ProducerSettings(), connect=other.connect)
    StreamingService(emitter).emit_ingest_event("p", "ingest.job.created", IngestJob(id="j"))
    assert emitter.close(10)
    assert (len(other.written), len(log.written)) == (1, 0)


def test_configure_sends_what_waits_and_then_replaces(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = MemoryLog()
    emit_ingest_event("p", "ingest.job.created", IngestJob(id="1"))

    def made(settings: ProducerSettings) -> Emitter:
        assert settings.topic == "other"
        return Emitter(settings, connect=later.connect)

    monkeypatch.setattr(emit, "Emitter", made)
    configure(topic="other", exit_ms=10_000)
    emit_ingest_event("p", "ingest.job.created", IngestJob(id="2"))
    assert flush(10)
    assert [decode(r.value).run_id for _, r in log.written] == ["1"]
    assert [decode(r.value).run_id for _, r in later.written] == ["2"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"topics": "x"}, "topics"), ({"max_event_bytes": "x"}, "max_event_bytes")],
)
def test_configure_names_the_setting_that_is_wrong(settings: dict[str, object], name: str) -> None:
    with pytest.raises(ParameterError, match=name):
        configure(**settings)


def test_configure_names_the_setting_that_is_nearest() -> None:
    with pytest.raises(ParameterError, match="did you mean buffer_max_events"):
        configure(buffer_max_event=10)
    with pytest.raises(ParameterError, match=r"unknown setting$"):
        configure(colour="blue")


def test_configure_connects_before_the_first_event(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = MemoryLog()
    monkeypatch.setattr(emit, "Emitter", lambda given: Emitter(given, connect=later.connect))
    configure(topic="other")
    assert later.attempted.wait(10)
    made = emit.stats()
    assert made is not None
    assert made.emitted == 0
    assert log.started == 0


def test_unusable_environment_does_not_fail_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emit, "_process", emit._Process())
    monkeypatch.setenv("TAILRACE_MAX_EVENT_BYTES", "many")
    with capture_logs() as lines:
        emit_ingest_event("p", "ingest.job.created", IngestJob(id="j"))
        emit_ingest_event("p", "ingest.job.created", IngestJob(id="j"))
    assert [line["event"] for line in lines] == ["emitter_settings_invalid"]
    assert flush(0)
    assert stats() is None


def test_first_events_of_many_threads_make_one_emitter(monkeypatch: pytest.MonkeyPatch) -> None:
    log, made = MemoryLog(), []

    def once() -> Emitter:
        made.append(Emitter(ProducerSettings(), connect=log.connect))
        return made[-1]

    monkeypatch.setattr(emit, "_process", emit._Process())
    monkeypatch.setattr(emit, "Emitter", once)
    barrier = threading.Barrier(8)

    def work(n: int) -> None:
        barrier.wait()
        emit_workflow_event("p", "workflow.node.started", {"run_id": n})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert made[0].close(10)
    assert len(log.written) == 8


def test_importing_starts_nothing() -> None:
    script = "import threading, tailrace.producers; print(threading.active_count())"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert ended.stdout.strip() == b"1"
