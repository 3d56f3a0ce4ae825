"""Watch any LangGraph graph: its runs, nodes, steps and messages as events.

Needs the extra ``tailrace[langgraph]``; nothing else of Tailrace imports it::

    graph.invoke(state, config={"callbacks": [tailrace_handler("my-project")]})

One handler sees invoke, ainvoke, stream and astream alike, and needs no change to the graph.
LangChain swallows what a handler raises, so this one raises nothing: it logs.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypedDict, Unpack
from uuid import UUID

import structlog
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.tracers.context import register_configure_hook
from langgraph.callbacks import GraphCallbackHandler, GraphInterruptEvent
from langgraph.constants import TAG_HIDDEN
from langgraph.types import Command

from tailrace.logs import RateLimit
from tailrace.producers.emit import StreamingService
from tailrace.producers.graph_run import GraphEvents, GraphRun, Kind, path_of
from tailrace.producers.graph_spans import Span, Spans
from tailrace.producers.graph_values import Redact, Values, role_of
from tailrace.producers.langgraph_stream import tailrace_astream

__all__ = [
    "HandlerOptions",
    "TailraceHandler",
    "is_node",
    "tailrace_astream",
    "tailrace_handler",
    "tailrace_tracing",
]

_NODE_TAG = "graph:step:"
_log = structlog.get_logger("tailrace.producers")


class HandlerOptions(TypedDict, total=False):
    """What `tailrace_handler` and `tailrace_tracing` take besides the project and the run."""

    kind: Kind
    """``workflow`` (default) or ``agent``: which family the runs belong to."""
    name: str
    """What the runs are called; by default the graph's own name."""
    redact: Redact
    """Names whose values are never sent, or a function (name, value) -> what is sent instead."""
    max_keys: int
    """How many changed keys of a node are sent, 32 by default."""
    max_value_chars: int
    """Bound of the text of each, 1000 by default."""
    own_runs: bool
    """False where the caller emits the runs' own events; then only nodes and messages are."""
    events: GraphEvents
    """Where to emit; by default the emitter of this process."""
    clock: Callable[[], float]
    """Seconds, monotonic."""


class TailraceHandler(GraphCallbackHandler):
    """Turns the callbacks of LangChain into events; see `tailrace_handler`.

    May be used by any number of runs at once, from any thread. Holds at most 1000 open runs, the
    oldest of more is forgotten, and 10 000 open nodes, models and tools of each, where further ones
    are not told; either is logged.

    A run is a callback without a parent, or, where the handler was handed in further down, without
    one that it knows; its late callbacks, after a cancellation, are nobody's.
    """

    # Called on the thread or the loop of the node itself, in order; LangChain would otherwise hand
    # a handler without coroutines to a pool of threads.
    run_inline = True

    def __init__(
        self, project_id: str, run_id: str | None = None, **options: Unpack[HandlerOptions]
    ) -> None:
        super().__init__()
        self._project_id = project_id
        self._run_id = run_id
        self._name = options.get("name")
        self._kind: Kind = options.get("kind", "workflow")
        self._events = options.get("events") or StreamingService()
        self._own_runs = options.get("own_runs", True)
        self._clock = options.get("clock", time.monotonic)
        self._values = Values(
            options.get("redact"),
            max_keys=options.get("max_keys", 32),
            max_chars=options.get("max_value_chars", 1000),
        )
        self._lock = threading.RLock()
        self._spans = Spans()
        self._limit = RateLimit(60.0)

    def __repr__(self) -> str:
        return f"<TailraceHandler {self._project_id} runs={self._spans.runs}>"

    @property
    def ignore_retriever(self) -> bool:
        """What a retriever asks a model is no part of the conversation."""
        return True

    def on_chain_start(
        self,
        serialized: Mapping[str, Any] | None,  # noqa: ARG002 - the base class names it
        inputs: object,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Begin a run, a node, or something inside of one."""
        with self._watching("on_chain_start"):
            parent = self._spans.get(parent_run_id)
            known = metadata or {}
            if parent is None:
                if parent_run_id is None or "langgraph_node" not in known:
                    self._open_run(run_id, inputs, str(kwargs.get("name") or "graph"))
            elif is_node(tags):
                self._open_node(run_id, parent, known)
            else:
                self._inherit(run_id, parent)

    def on_chain_end(self, outputs: object, *, run_id: UUID, **_: Any) -> None:
        """End a run or a node."""
        with self._watching("on_chain_end"):
            self._close(run_id, outputs, None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """End a run or a node: failed, cancelled or interrupted."""
        with self._watching("on_chain_error"):
            self._close(run_id, None, error)

    def on_interrupt(self, event: GraphInterruptEvent) -> None:
        """Note that a run waits: LangGraph goes on to end it as if it were done."""
        with self._watching("on_interrupt"):
            span = self._spans.get(event.run_id)
            if span is not None and span.owner and span.node is None:
                span.run.interrupted = True

    def on_chat_model_start(
        self,
        serialized: Mapping[str, Any] | None,  # noqa: ARG002 - the base class names it
        messages: object,  # noqa: ARG002
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **_: Any,
    ) -> None:
        """Begin to collect what a model says."""
        self._begin(run_id, parent_run_id)

    def on_llm_start(
        self,
        serialized: Mapping[str, Any] | None,  # noqa: ARG002 - the base class names it
        prompts: object,  # noqa: ARG002
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **_: Any,
    ) -> None:
        """Begin to collect what a model says."""
        self._begin(run_id, parent_run_id)

    def on_tool_start(
        self,
        serialized: Mapping[str, Any] | None,  # noqa: ARG002 - the base class names it
        input_str: str,  # noqa: ARG002
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **_: Any,
    ) -> None:
        """Know whose tool this is."""
        self._begin(run_id, parent_run_id)

    def on_llm_new_token(
        self, token: object, *, run_id: UUID, chunk: object = None, **_: Any
    ) -> None:
        """Add to the text that the step shows."""
        with self._watching("on_llm_new_token"):
            span = self._spans.get(run_id)
            text = _text_of(token, chunk)
            if span is not None and text:
                span.add(text)
                if span.node is not None:
                    span.run.text(span.node, span.text)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Append what the model said as a message."""
        with self._watching("on_llm_end"):
            span = self._end_text(run_id)
            if span is not None and response.generations and response.generations[0]:
                self._say(span, run_id, response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:  # noqa: ARG002
        """Show what the model said before it failed."""
        with self._watching("on_llm_error"):
            self._end_text(run_id)

    def on_tool_end(self, output: object, *, run_id: UUID, **_: Any) -> None:
        """Append what the tool answered as a message."""
        with self._watching("on_tool_end"):
            span = self._spans.close(run_id)
            if span is not None and isinstance(output, ToolMessage):
                span.run.message(
                    output.id or str(run_id),
                    role_of(output),
                    str(output.text),
                    span.node,
                    name=output.name,
                    tool_call_id=output.tool_call_id,
                    status=output.status,
                )

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:  # noqa: ARG002
        """Forget the tool: its node tells the failure."""
        with self._watching("on_tool_error"):
            self._spans.close(run_id)

    @contextmanager
    def _watching(self, where: str) -> Iterator[None]:
        """Hold the tables for the block; what goes wrong in it is logged and nothing else."""
        with self._lock:
            try:
                yield
            except Exception as exc:  # noqa: BLE001 - a run must not suffer from being watched
                if self._limit.allow(where, time.monotonic()) is not None:
                    _log.exception(
                        "graph_callback_failed", callback=where, error=type(exc).__name__
                    )

    def _open_run(self, span_id: UUID, inputs: object, name: str) -> None:
        run = GraphRun(
            self._run_id or str(span_id),
            self._project_id,
            self._name or name,
            kind=self._kind,
            events=self._events,
            values=self._values,
            own=self._own_runs,
            clock=self._clock,
        )
        if not self._spans.open_run(span_id, run):
            self._complain("graph_run_forgotten")
        going_on = inputs is None or isinstance(inputs, Command)
        run.start(resumed=going_on and self._run_id is not None)

    def _open_node(self, span_id: UUID, parent: Span, metadata: Mapping[str, Any]) -> None:
        path, task_id = path_of(str(metadata.get("langgraph_checkpoint_ns") or span_id))
        step = metadata.get("langgraph_step")
        if self._has_room(parent):
            node = parent.run.start_node(task_id, path, step if isinstance(step, int) else None)
            self._spans.open(span_id, parent, node)

    def _begin(self, span_id: UUID, parent_id: UUID | None) -> None:
        with self._watching("start"):
            parent = self._spans.get(parent_id)
            if parent is not None:
                self._inherit(span_id, parent)

    def _inherit(self, span_id: UUID, parent: Span) -> None:
        if self._has_room(parent):
            self._spans.open(span_id, parent)

    def _close(self, span_id: UUID, outputs: object, error: BaseException | None) -> None:
        span = self._spans.close(span_id)
        if span is None or not span.owner:
            return
        if span.node is not None:
            span.run.end_node(span.node, outputs, error)
        else:
            self._spans.close_run(span.root)
            span.run.end(error)

    def _say(self, span: Span, span_id: UUID, response: LLMResult) -> None:
        first = response.generations[0][0]
        message = first.message if isinstance(first, ChatGeneration) else None
        if isinstance(message, BaseMessage):
            calls = getattr(message, "tool_calls", None)
            members = {"tool_calls": calls} if calls else {}
            message_id, role, text = message.id, role_of(message), str(message.text)
        else:
            message_id, role, text, members = None, "assistant", first.text, {}
        span.run.message(message_id or str(span_id), role, text, span.node, **members)

    def _end_text(self, span_id: UUID) -> Span | None:
        span = self._spans.close(span_id)
        if span is not None and span.node is not None and span.text():
            span.run.text(span.node, span.text, last=True)
        return span

    def _has_room(self, parent: Span) -> bool:
        if self._spans.has_room(parent):
            return True
        self._complain("graph_node_not_told")
        return False

    def _complain(self, what: str) -> None:
        if self._limit.allow(what, time.monotonic()) is not None:
            _log.warning(what, project=self._project_id, runs=self._spans.runs)


def is_node(tags: Sequence[str] | None) -> bool:
    """Tell by its tags whether a callback run is a node itself, not something inside of one.

    A conditional entry point makes a node that LangGraph hides; it is none here either.
    """
    known = tags or ()
    return TAG_HIDDEN not in known and any(tag.startswith(_NODE_TAG) for tag in known)


def _text_of(token: object, chunk: object) -> str:
    """Return the text of a token; some models give a list of blocks, text and others."""
    if isinstance(token, str):
        return token
    return str(chunk.message.text) if isinstance(chunk, ChatGenerationChunk) else ""


def tailrace_handler(
    project_id: str, run_id: str | None = None, **options: Unpack[HandlerOptions]
) -> TailraceHandler:
    """Return a callback handler that tells what a graph does.

    Give it to any graph: ``graph.astream(state, config={"callbacks": [handler]})``. For each run:
    ``created``, then ``updated`` for each new stage, which is the node at the top that runs, and
    one of ``completed``, ``failed`` and ``cancelled``; a run that an interrupt stops is ``updated``
    to the status ``interrupted``. Nodes, attempts and subgraphs are told in between, and of the
    state only what a node changed, bounded and redacted.

    What a chat model says is one ``agent.message.appended`` at its end. While it streams, the text
    so far is in the step's ``agent.step.updated``, at most every 100 ms.

    Args:
        project_id: Who may see the runs.
        run_id: The id of the run, to go on with it after an interrupt or to know it before; by
            default each run has the id that LangChain gave it, a UUIDv7.
        options: See `HandlerOptions`.
    """
    return TailraceHandler(project_id, run_id, **options)


_tracing: ContextVar[BaseCallbackHandler | None] = ContextVar("tailrace_tracing", default=None)
register_configure_hook(_tracing, inheritable=True)


@contextmanager
def tailrace_tracing(
    project_id: str, run_id: str | None = None, **options: Unpack[HandlerOptions]
) -> Iterator[TailraceHandler]:
    """Watch every graph that is run inside of the block, without touching its config.

    It follows asyncio tasks and LangChain's own threads. Arguments as of `tailrace_handler`.
    """
    handler = tailrace_handler(project_id, run_id, **options)
    token = _tracing.set(handler)
    try:
        yield handler
    finally:
        # A generator that is closed from another context cannot reset; that context ends anyway.
        with suppress(ValueError):
            _tracing.reset(token)
