"""Watch any LangGraph graph: its runs, nodes, steps and messages as events.

Needs the extra ``tailrace[langgraph]``; nothing else of Tailrace imports it::

    graph.invoke(state, config={"callbacks": [tailrace_handler("my-project")]})

One handler sees invoke, ainvoke, stream and astream alike, and needs no change to the graph.
LangChain swallows what a handler raises, so this one raises nothing: it logs.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypedDict, Unpack
from uuid import UUID

import structlog
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook
from langgraph.callbacks import GraphCallbackHandler, GraphInterruptEvent
from langgraph.types import Command

from tailrace.producers.emit import StreamingService
from tailrace.producers.graph_run import (
    TEXT_MAX_CHARS,
    GraphEvents,
    GraphRun,
    Kind,
    Node,
    path_of,
)
from tailrace.producers.graph_values import Redact, Values, role_of
from tailrace.producers.langgraph_stream import tailrace_astream
from tailrace.producers.ratelimit import RateLimit

__all__ = [
    "HandlerOptions",
    "TailraceHandler",
    "tailrace_astream",
    "tailrace_handler",
    "tailrace_tracing",
]

_MAX_RUNS = 1000
_MAX_SPANS = 10_000
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


class _Span:
    """One open callback run of LangChain: a graph, a node, a model, or what lies between."""

    __slots__ = ("node", "owner", "root", "run", "size", "tokens")

    def __init__(self, run: GraphRun, root: UUID, node: Node | None, *, owner: bool) -> None:
        self.run = run
        self.root = root
        self.node = node
        self.owner = owner
        """Whether it is the node itself, or without a node the run itself."""
        self.tokens: list[str] = []
        self.size = 0

    def add(self, token: str) -> None:
        if self.size <= TEXT_MAX_CHARS:  # one past the bound shows that there was more
            self.tokens.append(token)
            self.size += len(token)

    def text(self) -> str:
        return "".join(self.tokens)


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
        self._roots: OrderedDict[UUID, set[UUID]] = OrderedDict()
        self._spans: dict[UUID, _Span] = {}
        self._limit = RateLimit(60.0)

    def __repr__(self) -> str:
        return f"<TailraceHandler {self._project_id} runs={len(self._roots)}>"

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
            parent = self._parent(parent_run_id)
            known = metadata or {}
            if parent is None:
                if parent_run_id is None or "langgraph_node" not in known:
                    self._open_run(run_id, inputs, str(kwargs.get("name") or "graph"))
            elif any(tag.startswith(_NODE_TAG) for tag in tags or ()):
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
            span = self._spans.get(event.run_id) if event.run_id is not None else None
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

    def on_llm_new_token(self, token: object, *, run_id: UUID, **_: Any) -> None:
        """Add to the text that the step shows."""
        with self._watching("on_llm_new_token"):
            span = self._spans.get(run_id)
            if span is not None and isinstance(token, str) and token:
                span.add(token)
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
            span = self._forget(run_id)
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
            self._forget(run_id)

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
        if len(self._roots) >= _MAX_RUNS:
            self._forget_run(next(iter(self._roots)))
            self._complain("graph_run_forgotten")
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
        self._roots[span_id] = {span_id}
        self._spans[span_id] = _Span(run, span_id, None, owner=True)
        going_on = inputs is None or isinstance(inputs, Command)
        run.start(resumed=going_on and self._run_id is not None)

    def _open_node(self, span_id: UUID, parent: _Span, metadata: Mapping[str, Any]) -> None:
        path, task_id = path_of(str(metadata.get("langgraph_checkpoint_ns") or span_id))
        step = metadata.get("langgraph_step")
        if self._has_room(parent):
            node = parent.run.start_node(task_id, path, step if isinstance(step, int) else None)
            self._add(span_id, _Span(parent.run, parent.root, node, owner=True))

    def _begin(self, span_id: UUID, parent_id: UUID | None) -> None:
        with self._watching("start"):
            parent = self._parent(parent_id)
            if parent is not None:
                self._inherit(span_id, parent)

    def _inherit(self, span_id: UUID, parent: _Span) -> None:
        if self._has_room(parent):
            self._add(span_id, _Span(parent.run, parent.root, parent.node, owner=False))

    def _close(self, span_id: UUID, outputs: object, error: BaseException | None) -> None:
        span = self._forget(span_id)
        if span is None or not span.owner:
            return
        if span.node is not None:
            span.run.end_node(span.node, outputs, error)
        else:
            self._forget_run(span.root)
            span.run.end(error)

    def _say(self, span: _Span, span_id: UUID, response: LLMResult) -> None:
        first = response.generations[0][0]
        message = first.message if isinstance(first, ChatGeneration) else None
        if isinstance(message, BaseMessage):
            calls = getattr(message, "tool_calls", None)
            members = {"tool_calls": calls} if calls else {}
            message_id, role, text = message.id, role_of(message), str(message.text)
        else:
            message_id, role, text, members = None, "assistant", first.text, {}
        span.run.message(message_id or str(span_id), role, text, span.node, **members)

    def _end_text(self, span_id: UUID) -> _Span | None:
        span = self._forget(span_id)
        if span is not None and span.node is not None and span.tokens:
            span.run.text(span.node, span.text, last=True)
        return span

    def _parent(self, span_id: UUID | None) -> _Span | None:
        return None if span_id is None else self._spans.get(span_id)

    def _has_room(self, parent: _Span) -> bool:
        if len(self._roots[parent.root]) < _MAX_SPANS:
            return True
        self._complain("graph_node_not_told")
        return False

    def _add(self, span_id: UUID, span: _Span) -> None:
        self._roots[span.root].add(span_id)
        self._spans[span_id] = span

    def _forget(self, span_id: UUID) -> _Span | None:
        span = self._spans.pop(span_id, None)
        if span is not None:
            self._roots[span.root].discard(span_id)
        return span

    def _forget_run(self, root: UUID) -> None:
        for span_id in self._roots.pop(root):
            self._spans.pop(span_id, None)

    def _complain(self, what: str) -> None:
        if self._limit.allow(what, time.monotonic()) is not None:
            _log.warning(what, project=self._project_id, runs=len(self._roots))


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
