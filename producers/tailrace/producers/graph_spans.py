"""The open callback runs of LangChain, and which run and node of a graph each belongs to. Pure."""

from collections import OrderedDict
from typing import Final
from uuid import UUID

from tailrace.producers.graph_run import TEXT_MAX_CHARS, GraphRun, Node

__all__ = ["MAX_RUNS", "MAX_SPANS", "Span", "Spans"]

MAX_RUNS: Final = 1000
"""How many runs are open at once; of more, the oldest is forgotten."""

MAX_SPANS: Final = 10_000
"""How many spans of one run are open at once; further ones are not taken."""


class Span:
    """One open callback run: a graph, a node, a model, a tool, or what lies between."""

    __slots__ = ("_size", "_tokens", "node", "owner", "root", "run")

    def __init__(self, run: GraphRun, root: UUID, node: Node | None, *, owner: bool) -> None:
        self.run = run
        self.root = root
        """The span of the run itself."""
        self.node = node
        """Where it is; None above all nodes."""
        self.owner = owner
        """Whether it is the node itself, or without a node the run itself."""
        self._tokens: list[str] = []
        self._size = 0

    def add(self, token: str) -> None:
        """Add to what a model says; past `TEXT_MAX_CHARS` nothing is kept."""
        if self._size <= TEXT_MAX_CHARS:  # one past the bound shows that there was more
            self._tokens.append(token)
            self._size += len(token)

    def text(self) -> str:
        """Return what the model has said so far."""
        return "".join(self._tokens)


class Spans:
    """Finds the span of a callback run. Not safe for threads by itself.

    Args:
        max_runs: See `MAX_RUNS`.
        max_spans: See `MAX_SPANS`.
    """

    def __init__(self, max_runs: int = MAX_RUNS, max_spans: int = MAX_SPANS) -> None:
        self._max_runs = max_runs
        self._max_spans = max_spans
        self._roots: OrderedDict[UUID, set[UUID]] = OrderedDict()
        self._spans: dict[UUID, Span] = {}

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def runs(self) -> int:
        """How many runs are open."""
        return len(self._roots)

    def get(self, span_id: UUID | None) -> Span | None:
        """Return an open span."""
        return None if span_id is None else self._spans.get(span_id)

    def open_run(self, span_id: UUID, run: GraphRun) -> bool:
        """Open the span of a run; False when the oldest was forgotten to make room."""
        full = len(self._roots) >= self._max_runs
        if full:
            self.close_run(next(iter(self._roots)))
        self._roots[span_id] = {span_id}
        self._spans[span_id] = Span(run, span_id, None, owner=True)
        return not full

    def has_room(self, parent: Span) -> bool:
        """Tell whether the run of `parent` may open one more span."""
        return len(self._roots[parent.root]) < self._max_spans

    def open(self, span_id: UUID, parent: Span, node: Node | None = None) -> None:
        """Open the span of a node inside of `parent`; without one, of something in its node."""
        inner, owner = (parent.node, False) if node is None else (node, True)
        self._roots[parent.root].add(span_id)
        self._spans[span_id] = Span(parent.run, parent.root, inner, owner=owner)

    def close(self, span_id: UUID) -> Span | None:
        """Close a span and return it; None when it is not open."""
        span = self._spans.pop(span_id, None)
        if span is not None:
            self._roots[span.root].discard(span_id)
        return span

    def close_run(self, root: UUID) -> None:
        """Close the span of a run, and all inside of it."""
        for span_id in self._roots.pop(root):
            self._spans.pop(span_id, None)
