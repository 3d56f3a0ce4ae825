import asyncio
import operator
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt
from recording_events import RecordingEvents
from talking_model import Blocks, Talking

from tailrace.producers import langgraph
from tailrace.producers.emit import StreamingService
from tailrace.producers.found import find
from tailrace.producers.graph_spans import Spans
from tailrace.producers.langgraph import tailrace_handler, tailrace_tracing
from tailrace.producers.payload import body_of


class State(TypedDict, total=False):
    seen: Annotated[list[str], operator.add]
    answer: str


Graph = CompiledStateGraph[State, None, State, State]
Run = Callable[[Graph, RunnableConfig], object]


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


def graph_of(**nodes: Any) -> Graph:
    """Return a graph whose nodes run one after the other."""
    graph = StateGraph(State)
    before = START
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    return graph.compile(name="mine")


def say(word: str) -> Any:
    return lambda _: {"seen": [word]}


def watched(events: RecordingEvents, run_id: str | None = "r", **options: Any) -> RunnableConfig:
    return {"callbacks": [tailrace_handler("p", run_id, events=events, **options)]}


def story(events: RecordingEvents) -> list[tuple[str, str, str]]:
    """Return type, what it is about, and status of each event."""
    return [
        (
            e.type,
            "/".join(e.body.get("path") or [e.body.get("stage") or "-"]),
            e.body["status"],
        )
        for e in events.emitted
    ]


def node_story(path: str) -> list[tuple[str, str, str]]:
    return [
        ("workflow.node.started", path, "running"),
        ("workflow.node_state.updated", path, "completed"),
        ("workflow.node.completed", path, "completed"),
    ]


def invoke(graph: Graph, config: RunnableConfig) -> None:
    graph.invoke({"seen": []}, config)


def stream(graph: Graph, config: RunnableConfig) -> None:
    list(graph.stream({"seen": []}, config))


def ainvoke(graph: Graph, config: RunnableConfig) -> None:
    asyncio.run(_ainvoke(graph, config))


async def _ainvoke(graph: Graph, config: RunnableConfig) -> None:
    await graph.ainvoke({"seen": []}, config)


def astream(graph: Graph, config: RunnableConfig) -> None:
    asyncio.run(_astream(graph, config))


async def _astream(graph: Graph, config: RunnableConfig) -> None:
    async for _ in graph.astream({"seen": []}, config, stream_mode="values"):
        pass


ways = pytest.mark.parametrize("run", [invoke, stream, ainvoke, astream])


@ways
def test_every_way_to_run_a_graph_tells_the_same(events: RecordingEvents, run: Run) -> None:
    run(graph_of(one=say("a"), two=graph_of(inner=say("b"))), watched(events))
    assert story(events) == [
        ("workflow.run.created", "-", "running"),
        ("workflow.run.updated", "one", "running"),
        *node_story("one"),
        ("workflow.run.updated", "two", "running"),
        ("workflow.node.started", "two", "running"),
        *node_story("two/inner"),
        *node_story("two")[1:],
        ("workflow.run.completed", "two", "completed"),
    ]
    assert {(e.project, e.kind) for e in events.emitted} == {("p", "workflow")}
    assert {e.body.get("run_id", e.body["id"]) for e in events.emitted} == {"r"}
    assert events.emitted[0].body["workflow"] == "mine"
    assert events.emitted[-1].body["progress"] == 1.0


@ways
def test_retry_is_another_attempt_of_the_same_node(events: RecordingEvents, run: Run) -> None:
    left = ["broken", "still broken"]

    def flaky(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        if left:
            raise ValueError(left.pop(0))
        return {"answer": "done"}

    graph = StateGraph(State)
    graph.add_node(
        "flaky",
        flaky,
        retry_policy=RetryPolicy(initial_interval=0, jitter=False, retry_on=ValueError),
    )
    graph.add_edge(START, "flaky")
    run(graph.compile(), watched(events))
    nodes = [e for e in events.emitted if e.type.startswith("workflow.node.")]
    assert [(e.type, e.body["attempt"], e.error) for e in nodes] == [
        ("workflow.node.started", 1, None),
        ("workflow.node.failed", 1, "broken"),
        ("workflow.node.started", 2, None),
        ("workflow.node.failed", 2, "still broken"),
        ("workflow.node.started", 3, None),
        ("workflow.node.completed", 3, None),
    ]
    assert len({e.body["id"] for e in nodes}) == 1
    assert events.types()[-1] == "workflow.run.completed"


@ways
def test_parallel_branches_are_nodes_of_their_own(events: RecordingEvents, run: Run) -> None:
    graph = StateGraph(State)
    graph.add_node("split", say("x"))
    work: Any = lambda state: {"seen": [state["answer"]]}  # noqa: E731
    graph.add_node("work", work)
    graph.add_edge(START, "split")
    graph.add_conditional_edges(
        "split", lambda _: [Send("work", {"answer": word}) for word in "abc"], ["work"]
    )
    run(graph.compile(), watched(events))
    done = [s for s in events.bodies("workflow.node_state.updated") if s["node"] == "work"]
    assert sorted(s["values"]["seen"][0] for s in done) == ["a", "b", "c"]
    assert len({s["id"] for s in done}) == 3
    assert [r["stage"] for r in events.bodies("workflow.run.updated")] == ["split", "work"]


@ways
def test_failure_is_told_with_its_message(events: RecordingEvents, run: Run) -> None:
    def bad(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        raise KeyError("no such river")

    with pytest.raises(KeyError):
        run(graph_of(bad=bad), watched(events))
    assert [(e.type, e.error, e.body["error_message"]) for e in events.emitted[-2:]] == [
        ("workflow.node.failed", "'no such river'", "'no such river'"),
        ("workflow.run.failed", "'no such river'", "'no such river'"),
    ]


@ways
def test_interrupt_is_no_failure_and_the_run_goes_on(events: RecordingEvents, run: Run) -> None:
    def ask(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        return {"answer": interrupt("shall I?")}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    config = watched(events)
    config["configurable"] = {"thread_id": "t"}
    app = graph.compile(checkpointer=InMemorySaver())
    run(app, config)
    assert story(events)[-2:] == [
        ("workflow.node_state.updated", "ask", "interrupted"),
        ("workflow.run.updated", "ask", "interrupted"),
    ]
    asked = events.bodies("workflow.node_state.updated")[-1]["values"]["__interrupt__"]
    assert asked[0]["value"] == "shall I?"
    app.invoke(Command(resume="yes"), config)
    assert events.types().count("workflow.run.created") == 1
    assert events.bodies("workflow.node_state.updated")[-1]["values"] == {"answer": "yes"}
    assert events.types()[-1] == "workflow.run.completed"


def test_interrupt_in_a_subgraph_interrupts_all_above_it(events: RecordingEvents) -> None:
    graph = StateGraph(State)
    graph.add_node("outer", graph_of(ask=lambda _: {"answer": interrupt("?")}))
    graph.add_edge(START, "outer")
    config = watched(events)
    config["configurable"] = {"thread_id": "t"}
    graph.compile(checkpointer=InMemorySaver()).invoke({"seen": []}, config)
    assert [(about, status) for _, about, status in story(events)[-3:]] == [
        ("outer/ask", "interrupted"),
        ("outer", "interrupted"),
        ("outer", "interrupted"),
    ]


def test_breakpoint_interrupts_the_run(events: RecordingEvents) -> None:
    graph = StateGraph(State)
    graph.add_node("one", say("a"))
    graph.add_edge(START, "one")
    app = graph.compile(checkpointer=InMemorySaver(), interrupt_before=["one"])
    config = watched(events)
    config["configurable"] = {"thread_id": "t"}
    app.invoke({"seen": []}, config)
    assert [e.body["status"] for e in events.emitted] == ["running", "interrupted"]
    app.invoke(None, config)
    assert events.types().count("workflow.run.created") == 1
    assert events.types()[-1] == "workflow.run.completed"


def test_command_to_the_graph_above_completes_the_node(events: RecordingEvents) -> None:
    def leave(state: State) -> Command[str]:  # noqa: ARG001 - LangGraph's name
        return Command(graph=Command.PARENT, goto="after", update={"answer": "up"})

    graph = StateGraph(State)
    graph.add_node("inside", graph_of(leave=leave), destinations=("after",))
    graph.add_node("after", say("a"))
    graph.add_edge(START, "inside")
    graph.compile().invoke({"seen": []}, watched(events))
    done = {"/".join(s["path"]): s["values"] for s in events.bodies("workflow.node_state.updated")}
    assert done["inside/leave"] == {"answer": "up"}
    assert "workflow.node.failed" not in events.types()


async def test_cancellation_in_a_node_cancels_node_and_run(events: RecordingEvents) -> None:
    async def slow(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        await asyncio.Event().wait()
        return {}

    task = asyncio.create_task(_ainvoke(graph_of(slow=slow), watched(events)))
    await events.until(lambda e: e.type == "workflow.node.started")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert story(events)[-2:] == [
        ("workflow.node_state.updated", "slow", "cancelled"),
        ("workflow.run.cancelled", "slow", "cancelled"),
    ]


async def test_leaving_a_stream_early_cancels_the_run(events: RecordingEvents) -> None:
    stream = graph_of(one=say("a"), two=say("b")).astream({"seen": []}, watched(events))
    assert await anext(stream) == {"one": {"seen": ["a"]}}
    await stream.aclose()  # type: ignore[attr-defined]  # a generator, typed as an iterator
    assert events.types()[-1] == "workflow.run.cancelled"


async def test_failing_branch_cancels_its_neighbour_before_the_run_ends(
    events: RecordingEvents,
) -> None:
    async def slow(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        await asyncio.Event().wait()
        return {}

    async def bad(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        await events.until(lambda e: e.body.get("node") == "slow")
        raise ValueError("boom")

    graph = StateGraph(State)
    graph.add_node("slow", slow)
    graph.add_node("bad", bad)
    graph.add_edge(START, "slow")
    graph.add_edge(START, "bad")
    with pytest.raises(ValueError, match="boom"):
        await _ainvoke(graph.compile(), watched(events))
    assert story(events)[-3:] == [
        ("workflow.node.failed", "bad", "failed"),
        ("workflow.node_state.updated", "slow", "cancelled"),
        ("workflow.run.failed", events.emitted[-1].body["stage"], "failed"),
    ]


def test_thread_that_outlives_its_run_adds_nothing(events: RecordingEvents) -> None:
    inside, go, left = threading.Event(), threading.Event(), threading.Event()

    def slow(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        inside.set()
        go.wait()
        RunnableLambda(lambda x: x).invoke(1)
        left.set()
        return {}

    async def cancelled() -> None:
        task = asyncio.create_task(_ainvoke(graph_of(slow=slow), watched(events)))
        await asyncio.to_thread(inside.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        told = len(events.emitted)
        go.set()
        await asyncio.to_thread(left.wait)
        assert len(events.emitted) == told

    asyncio.run(cancelled())
    assert events.types()[-1] == "workflow.run.cancelled"


def test_state_carries_the_changed_keys_only_bounded_and_redacted(events: RecordingEvents) -> None:
    graph = graph_of(one=lambda _: {"answer": "x" * 5000}, two=lambda _: {"seen": ["secret"]})
    invoke(graph, watched(events, redact={"Seen"}, max_value_chars=10))
    states = events.bodies("workflow.node_state.updated")
    assert [(s["keys"], s["values"]) for s in states] == [
        (["answer"], {"answer": "x" * 10 + "…"}),
        (["seen"], {"seen": "[redacted]"}),
    ]


def test_redaction_reaches_texts_and_errors(events: RecordingEvents) -> None:
    def bad(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        Talking(words=["secret"]).invoke("hi")
        raise ValueError("secret")

    with pytest.raises(ValueError, match="secret"):
        invoke(graph_of(bad=bad), watched(events, redact=lambda _name, _value: "***"))
    assert events.bodies("agent.message.appended")[0]["content"] == "***"
    assert events.emitted[-1].error == "***"
    assert "secret" not in repr(events.emitted)


async def test_streamed_text_is_shown_ten_times_a_second_and_the_last_one_always(
    events: RecordingEvents,
) -> None:
    clock = Clock()
    tick = 1 / 1024  # 4 s of tokens

    def before() -> None:
        clock.now += tick

    model = Talking(words=["word "] * 4096, before=before)

    async def talk(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        async for _chunk in model.astream("hi"):
            pass
        return {}

    await _ainvoke(graph_of(talk=talk), watched(events, kind="agent", clock=clock))
    steps = events.bodies("agent.step.updated")
    texts = [step["text"] for step in steps if step["status"] == "running" and step["text"]]
    assert 30 <= len(texts) <= 42
    assert texts == sorted(texts, key=len)
    assert texts[-1] == ("word " * 4096)[:16_000] + "…"
    assert steps[-1]["text"] == texts[-1]
    (message,) = events.bodies("agent.message.appended")
    assert (message["role"], message["content"], message["node"]) == (
        "assistant",
        texts[-1],
        "talk",
    )


async def test_text_so_far_is_complete_when_its_model_is_cancelled(
    events: RecordingEvents,
) -> None:
    async def talk(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        async for chunk in Talking(words=["a", "b", "c"]).astream("hi"):
            if chunk.text == "b":
                await asyncio.Event().wait()
        return {}

    config = watched(events, kind="agent", clock=Clock())
    task = asyncio.create_task(_ainvoke(graph_of(talk=talk), config))
    await events.until(lambda e: e.body.get("text") == "a")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    last = events.bodies("agent.step.updated")[-1]
    assert (last["status"], last["text"]) == ("cancelled", "ab")


@ways
def test_text_in_blocks_is_shown_as_text(events: RecordingEvents, run: Run) -> None:
    thought: Blocks = [{"type": "reasoning", "reasoning": "hm", "index": 0}]
    texts: list[Blocks] = [[{"type": "text", "text": word, "index": 1}] for word in ("a", "b")]
    model = Talking(words=[thought, *texts])

    async def talk(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        async for _chunk in model.astream("hi"):
            pass
        return {}

    def talk_at_once(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        for _chunk in model.stream("hi"):
            pass
        return {}

    node: Any = RunnableLambda(talk_at_once, talk)
    run(graph_of(talk=node), watched(events, clock=Clock()))
    assert [step["text"] for step in events.bodies("agent.step.updated")] == ["a", "ab"]
    assert [m["content"] for m in events.bodies("agent.message.appended")] == ["ab"]


def test_short_text_is_complete_in_the_step_before_the_message(events: RecordingEvents) -> None:
    model = Talking(words=["a", "b", "c"])

    def talk(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        list(model.stream("hi"))
        return {}

    invoke(graph_of(talk=talk), watched(events, clock=Clock()))
    told = [(e.type, e.body.get("text"), e.body.get("content")) for e in events.emitted]
    assert [t for t in told if t[0].startswith("agent.")] == [
        ("agent.step.updated", "a", None),
        ("agent.step.updated", "abc", None),
        ("agent.message.appended", None, "abc"),
    ]
    assert {e.kind for e in events.emitted} == {"workflow"}


def test_agent_run_has_steps_and_tool_messages(events: RecordingEvents) -> None:
    @tool
    def double(number: int) -> int:
        """Double it."""
        return 2 * number

    def act(state: State) -> State:  # noqa: ARG001 - LangGraph's name
        call = {"name": "double", "args": {"number": 4}, "id": "c1", "type": "tool_call"}
        double.invoke(call)
        return {"answer": "8"}

    invoke(graph_of(act=act), watched(events, kind="agent"))
    assert story(events) == [
        ("agent.run.created", "-", "running"),
        ("agent.run.updated", "act", "running"),
        ("agent.step.updated", "act", "running"),
        ("agent.message.appended", "-", "success"),
        ("agent.step.updated", "act", "completed"),
        ("workflow.node_state.updated", "act", "completed"),
        ("agent.run.completed", "act", "completed"),
    ]
    (message,) = events.bodies("agent.message.appended")
    assert (message["role"], message["name"], message["content"]) == ("tool", "double", "8")


def test_run_events_can_be_left_to_the_caller(events: RecordingEvents) -> None:
    invoke(graph_of(one=say("a")), watched(events, own_runs=False))
    assert story(events) == node_story("one")


def test_every_run_of_a_handler_has_an_id_of_its_own(events: RecordingEvents) -> None:
    config = watched(events, None)
    graph = graph_of(one=say("a"))
    invoke(graph, config)
    invoke(graph, config)
    created = events.bodies("workflow.run.created")
    assert len({run["id"] for run in created}) == 2


def test_graph_inside_a_chain_that_is_not_watched_is_a_run(events: RecordingEvents) -> None:
    graph = graph_of(one=say("a"))
    chain: RunnableLambda[int, None] = RunnableLambda(lambda _: invoke(graph, watched(events)))
    chain.invoke(1)
    assert events.types()[0] == "workflow.run.created"
    assert events.types()[-1] == "workflow.run.completed"


@ways
def test_conditional_entry_is_no_node(events: RecordingEvents, run: Run) -> None:
    graph = StateGraph(State)
    graph.add_node("one", say("a"))
    graph.add_conditional_edges(START, lambda _: "one", ["one"])
    run(graph.compile(), watched(events))
    assert story(events)[1:-1] == [("workflow.run.updated", "one", "running"), *node_story("one")]


def test_tracing_reaches_the_threads_of_parallel_branches(events: RecordingEvents) -> None:
    meet = threading.Barrier(2, timeout=30)

    def work(state: State) -> State:
        meet.wait()
        return {"seen": [state["answer"]]}

    graph = StateGraph(State)
    graph.add_node("work", work)
    graph.add_conditional_edges(
        START, lambda _: [Send("work", {"answer": word}) for word in "ab"], ["work"]
    )
    with tailrace_tracing("p", "r", events=events):
        graph.compile().invoke({"seen": []})
    assert events.types().count("workflow.node.completed") == 2
    assert events.types()[-1] == "workflow.run.completed"


async def test_tracing_attaches_without_touching_the_config(events: RecordingEvents) -> None:
    graph = graph_of(one=say("a"), two=graph_of(inner=say("b")))
    with tailrace_tracing("p", "r", events=events):
        await graph.ainvoke({"seen": []})
    traced = story(events)
    events.emitted.clear()
    await _ainvoke(graph, watched(events))
    assert traced == story(events)
    events.emitted.clear()
    await graph.ainvoke({"seen": []})
    assert events.emitted == []


def test_handler_never_raises_and_the_graph_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def emit_agent_event(self, *_: object) -> None:
            raise ZeroDivisionError

        emit_workflow_event = emit_agent_event

    handler = tailrace_handler("p", events=Broken())
    handler.raise_error = True
    assert graph_of(one=say("a")).invoke({"seen": []}, {"callbacks": [handler]})["seen"] == ["a"]
    assert "Error in TailraceHandler" not in caplog.text


def test_handler_keeps_nothing_of_what_has_ended(events: RecordingEvents) -> None:
    handler = tailrace_handler("p", events=events)
    for _ in range(3):
        invoke(graph_of(one=say("a"), two=graph_of(inner=say("b"))), {"callbacks": [handler]})
    assert (handler._spans.runs, len(handler._spans)) == (0, 0)


def test_oldest_of_too_many_open_runs_is_forgotten(
    events: RecordingEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(langgraph, "Spans", lambda: Spans(max_runs=2))
    handler = tailrace_handler("p", events=events)
    graph = graph_of(one=say("a"))
    streams = [graph.stream({"seen": []}, {"callbacks": [handler]}) for _ in range(3)]
    for opened in streams:
        next(opened)
    assert repr(handler) == "<TailraceHandler p runs=2>"
    assert [len(list(opened)) for opened in streams] == [0, 0, 0]
    assert events.types().count("workflow.run.completed") == 2
    assert (handler._spans.runs, len(handler._spans)) == (0, 0)


def test_more_open_nodes_than_the_bound_are_not_told(
    events: RecordingEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(langgraph, "Spans", lambda: Spans(max_spans=2))
    invoke(graph_of(one=graph_of(inner=say("a"))), watched(events))
    assert [about for _, about, _ in story(events) if about != "-"] == ["one"] * 5


@pytest.mark.filterwarnings("ignore:astream_events version='v1'")
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_plain_loop_over_astream_events_keeps_working(version: Literal["v1", "v2"]) -> None:
    """The loop of the specification: whatever an event of LangGraph's holds can be emitted."""
    taken: list[tuple[str, str, object]] = []

    class Emitter:
        def emit(self, kind: str, _project: str, event_type: str, data: object, _: object) -> None:
            taken.append((kind, event_type, data))

    emit = StreamingService(Emitter()).emit_workflow_event  # type: ignore[arg-type]  # a fake
    graph = graph_of(talk=lambda _: {"answer": Talking(words=["hi"]).invoke("hi").content})
    async for event in graph.astream_events({"seen": []}, version=version):
        node_state = {"run_id": "r", "node": event["name"], "status": event["event"], "on": event}
        emit("p", "workflow.node_state.updated", node_state)
    bodies = [body_of(t, data, spread=k == "workflow", max_bytes=100_000) for k, t, data in taken]
    found = [find("workflow.node_state.updated", body) for body in bodies]
    assert {(f.run_id, f.reduced) for f in found} == {("r", False)}
    assert {body.omitted for body in bodies} == {None}
    assert "talk" in {f.stage for f in found}
    assert any('"answer":"hi"' in f.data for f in found)


def test_producers_alone_import_nothing_of_langgraph() -> None:
    program = (
        "import sys, tailrace.producers;"
        "print([m for m in sys.modules if m.startswith(('langgraph', 'langchain'))])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "[]"


def test_handler_is_one_that_langchain_accepts() -> None:
    assert isinstance(tailrace_handler("p"), BaseCallbackHandler)
