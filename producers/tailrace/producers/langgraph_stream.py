"""Watch a graph by its stream alone, where callbacks do not reach: a remote graph, a proxy."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

import uuid_utils
from langchain_core.runnables import RunnableConfig

from tailrace.producers.emit import StreamingService
from tailrace.producers.graph_run import GraphEvents, GraphRun, Kind, Node, path_of
from tailrace.producers.graph_values import Redact, Values

__all__ = ["StreamChunk", "Streamable", "tailrace_astream"]

_MODES = ("tasks", "updates")
_INTERRUPT = "__interrupt__"


class Streamable(Protocol):
    """A graph, compiled or remote."""

    def astream(
        self,
        input: Any,  # noqa: A002 - LangGraph's name
        config: RunnableConfig | None = None,
        *,
        stream_mode: Any = None,
        subgraphs: bool = False,
    ) -> AsyncIterator[Any]:
        """Run the graph and yield what happens."""


class StreamChunk(NamedTuple):
    """What LangGraph yields with several modes and subgraphs."""

    namespace: tuple[str, ...]
    """The subgraph, outermost first; empty for the graph itself."""
    mode: str
    """``tasks`` or ``updates``."""
    data: Any


async def tailrace_astream(
    graph: Streamable,
    state: object,
    project_id: str,
    run_id: str | None = None,
    *,
    config: RunnableConfig | None = None,
    kind: Kind = "workflow",
    name: str = "graph",
    redact: Redact | None = None,
    max_keys: int = 32,
    max_value_chars: int = 1000,
    events: GraphEvents | None = None,
) -> AsyncGenerator[StreamChunk, None]:
    """Run a graph and yield its ``tasks`` and ``updates`` while telling them as events.

    Tells what `tailrace_handler` tells, except for what a stream does not show: the attempts that
    a retry policy makes, and models' texts. Use the handler where you can, never both. A caller
    that stops early must close the generator (`contextlib.aclosing`): that cancels the run.

    Args:
        graph: Any graph with `astream`.
        state: The input; None or a `Command` to go on with an interrupted run.
        project_id: Who may see the run.
        run_id: The id of the run; by default a new UUIDv7.
        config: Handed to the graph.
        kind: Which family of runs this one belongs to.
        name: What the run is called.
        redact: As of the handler, like the two that follow.
        max_keys: How many changed keys of a node are sent.
        max_value_chars: Bound of the text of each.
        events: Where to emit; by default the emitter of this process.
    """
    run = GraphRun(
        run_id or str(uuid_utils.uuid7()),
        project_id,
        name,
        kind=kind,
        events=events or StreamingService(),
        values=Values(redact, max_keys=max_keys, max_chars=max_value_chars),
        own=True,
        clock=time.monotonic,
    )
    tasks = _Tasks(run)
    run.start(resumed=run_id is not None and not isinstance(state, Mapping))
    try:
        async with aclosing(_chunks(graph, state, config)) as chunks:
            async for chunk in chunks:
                tasks.see(chunk)
                yield chunk
    except BaseException as exc:
        run.end(exc)
        raise
    run.end()


async def _chunks(
    graph: Streamable, state: object, config: RunnableConfig | None
) -> AsyncGenerator[StreamChunk, None]:
    async for part in graph.astream(state, config, stream_mode=list(_MODES), subgraphs=True):
        yield StreamChunk(*part)


class _Tasks:
    """The nodes that a stream has shown to begin, until it shows their end.

    They are as many as the graph runs at once.
    """

    def __init__(self, run: GraphRun) -> None:
        self._run = run
        self._open: dict[str, Node] = {}

    def see(self, chunk: StreamChunk) -> None:
        """Tell what a chunk means."""
        if not isinstance(chunk.data, Mapping):
            return
        if chunk.mode == "updates":
            if not chunk.namespace and _INTERRUPT in chunk.data:
                self._run.interrupted = True
        elif "result" in chunk.data:
            self._end(chunk.data)
        else:
            self._start(chunk.namespace, chunk.data)

    def _start(self, namespace: Sequence[str], task: Mapping[str, Any]) -> None:
        task_id = str(task["id"])
        path = [path_of(part)[0][0] for part in namespace]
        self._open[task_id] = self._run.start_node(task_id, [*path, str(task["name"])])

    def _end(self, task: Mapping[str, Any]) -> None:
        node = self._open.pop(str(task["id"]), None)
        if node is None:
            return
        if task.get("interrupts"):
            self._run.interrupt_node(node, task["interrupts"])
        else:
            self._run.end_node(node, task["result"], _error_of(task.get("error")))


def _error_of(error: object) -> BaseException | None:
    """Return what a task failed with; a remote graph only has the text of it."""
    if error is None or isinstance(error, BaseException):
        return error
    return RuntimeError(str(error))
