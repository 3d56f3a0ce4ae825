"""One run of a graph -> its events: the run, its nodes, its steps and its messages.

What watches a graph, by callbacks or by its stream, says here what happened, in order; here is
decided what that means and what is emitted.
"""

from asyncio import CancelledError as TaskCancelled
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError as FutureCancelled
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeAlias

from langgraph.errors import GraphBubbleUp, ParentCommand

from tailrace.producers.graph_values import Values, updates_of
from tailrace.schemas import AgentMessage, AgentNodeState, AgentRun, AgentStep, WorkflowRun

__all__ = [
    "TEXT_MAX_CHARS",
    "TEXT_SECONDS",
    "GraphEvents",
    "GraphRun",
    "Kind",
    "Node",
    "Status",
    "path_of",
    "status_after",
]

Kind: TypeAlias = Literal["agent", "workflow"]

TEXT_SECONDS = 0.1
"""A step's growing text is emitted at most once in this time."""

TEXT_MAX_CHARS = 16_000
"""Bound of a step's text and of a message's content; what is longer ends with "…"."""

_ERROR_MAX_CHARS = 2000
_MAX_ATTEMPTS_KEPT = 10_000
_CANCELLED = (TaskCancelled, FutureCancelled, GeneratorExit, KeyboardInterrupt, SystemExit)


class Status(StrEnum):
    """Where a run or a node stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """It waits for somebody outside: an `interrupt` of LangGraph. A run may be resumed."""


class GraphEvents(Protocol):
    """Where runs of graphs are told. `StreamingService` is one."""

    def emit_agent_event(
        self, project_id: str, event_type: str, data: object, error: object = None
    ) -> None:
        """Take a snapshot of `data` and return at once; never raise."""

    def emit_workflow_event(
        self, project_id: str, event_type: str, data: object, error: object = None
    ) -> None:
        """Take a snapshot of `data` and return at once; never raise."""


def status_after(error: BaseException) -> Status:
    """Return what an exception means for the node or the run that it leaves.

    LangGraph's own control flow is no failure: a command to the graph above completes a node, any
    other of its kind interrupts it. Leaving a stream early cancels the run.
    """
    if isinstance(error, ParentCommand):
        return Status.COMPLETED
    if isinstance(error, GraphBubbleUp):
        return Status.INTERRUPTED
    return Status.CANCELLED if isinstance(error, _CANCELLED) else Status.FAILED


def path_of(checkpoint_ns: str) -> tuple[list[str], str]:
    """Return the names of a node's graph and subgraphs' nodes, its own last, and its task's id.

    Args:
        checkpoint_ns: ``outer:<task id>|inner:<task id>``, as LangGraph writes it.
    """
    parts = checkpoint_ns.split("|")
    names = [part.rpartition(":")[0] or part for part in parts]
    return names, parts[-1].rpartition(":")[2]


def _carried(error: BaseException | None) -> object:
    """Return what LangGraph's own control flow brings along: a command, or interrupts."""
    carries = isinstance(error, GraphBubbleUp) and error.args
    return error.args[0] if error is not None and carries else None


class Node:
    """One execution of a node: what is open between its start and its end."""

    __slots__ = ("attempt", "id", "path", "step", "text", "text_at", "unseen")

    def __init__(self, node_id: str, path: Sequence[str], step: int | None, attempt: int) -> None:
        self.id = node_id
        """The task's id: the same for each attempt."""
        self.path = list(path)
        self.step = step
        self.attempt = attempt
        self.text = ""
        self.text_at = float("-inf")
        self.unseen: Callable[[], str] | None = None
        """Returns the text that came too soon after the last one that was shown."""

    @property
    def name(self) -> str:
        """The node's name in its graph."""
        return self.path[-1]


class GraphRun:
    """Says what happens in one run of a graph. Its methods take microseconds.

    Agents' nodes are steps (``agent.step.updated``), workflows' nodes are facts
    (``workflow.node.*``); what a node changed is ``workflow.node_state.updated`` for both. All go
    through the emit function of the run's kind, so that one run's channel has them all.

    Args:
        run_id: The id that viewers subscribe to.
        project_id: Who may see it.
        name: What the graph is called.
        kind: Which family of runs this one belongs to.
        events: Where to emit.
        values: What may be sent of a state.
        own: Whether the run's own events are emitted too; False where the caller does that.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        run_id: str,
        project_id: str,
        name: str,
        *,
        kind: Kind,
        events: GraphEvents,
        values: Values,
        own: bool,
        clock: Callable[[], float],
    ) -> None:
        self.run_id = run_id
        self.interrupted = False
        """Whether it waits for somebody at its end."""
        self._project_id = project_id
        self._name = name
        self._kind = kind
        self._send = events.emit_agent_event if kind == "agent" else events.emit_workflow_event
        self._values = values
        self._own = own
        self._clock = clock
        self._stage: str | None = None
        self._attempts: dict[str, int] = {}
        self._open: dict[str, Node] = {}

    def __repr__(self) -> str:
        return f"<GraphRun {self.run_id} open={len(self._open)}>"

    def start(self, *, resumed: bool = False) -> None:
        """Begin the run, or go on with one that was interrupted."""
        self._emit_run("updated" if resumed else "created", Status.RUNNING)

    def end(self, error: BaseException | None = None) -> None:
        """End the run, after what is still open in it.

        Args:
            error: The exception that ended it; None when it came to its end by itself.
        """
        status = Status.COMPLETED if error is None else status_after(error)
        if self.interrupted and status is Status.COMPLETED:
            status = Status.INTERRUPTED
        left = status if status is Status.INTERRUPTED else Status.CANCELLED
        for node in list(self._open.values()):
            self._close(node, left)
        message = self._message_of(error) if status is Status.FAILED else None
        what = "updated" if status is Status.INTERRUPTED else status.value
        self._emit_run(what, status, message)

    def start_node(self, task_id: str, path: Sequence[str], step: int | None = None) -> Node:
        """Begin an execution of a node; another one of the same task is its next attempt."""
        attempt = self._attempts.get(task_id, 0) + 1
        if len(self._attempts) < _MAX_ATTEMPTS_KEPT or task_id in self._attempts:
            self._attempts[task_id] = attempt
        node = self._open[task_id] = Node(task_id, path, step, attempt)
        if len(node.path) == 1 and node.name != self._stage:
            self._stage = node.name
            self._emit_run("updated", Status.RUNNING)
        if self._kind == "agent":
            self._emit_step(node, Status.RUNNING)
        else:
            self._send_node("workflow.node.started", node, Status.RUNNING)
        return node

    def end_node(
        self, node: Node, outputs: object = None, error: BaseException | None = None
    ) -> None:
        """End an execution of a node. One that was ended already stays as it is.

        Args:
            node: What `start_node` returned.
            outputs: What it returned: the changes of the state.
            error: The exception that left it.
        """
        status = Status.COMPLETED if error is None else status_after(error)
        if status is Status.INTERRUPTED:
            self.interrupt_node(node, _carried(error))
        elif self._open.get(node.id) is node:
            changes = updates_of(outputs if error is None else _carried(error))
            message = self._message_of(error) if status is Status.FAILED else None
            self._close(node, status, changes, message)

    def interrupt_node(self, node: Node, interrupts: object) -> None:
        """End an execution of a node that waits for somebody, and show what it asks."""
        if self._open.get(node.id) is node:
            self._close(node, Status.INTERRUPTED, {"__interrupt__": interrupts})

    def text(self, node: Node, text: Callable[[], str], *, last: bool = False) -> None:
        """Show the text that a model has written so far in a node.

        Emitted at most once in `TEXT_SECONDS` for each node. The last one is emitted in any case:
        at the latest when the node ends, should its model never come to an end.

        Args:
            node: Where the model was called.
            text: Returns the text; called only when it is emitted.
            last: Whether nothing will be added.
        """
        now = self._clock()
        if not last and now - node.text_at < TEXT_SECONDS:
            node.unseen = text
            return
        node.unseen = None
        shown = self._values.text("content", text(), TEXT_MAX_CHARS)
        if shown != node.text and self._open.get(node.id) is node:
            node.text, node.text_at = shown, now
            self._emit_step(node, Status.RUNNING)

    def message(
        self, message_id: str, role: str, content: str, node: Node | None, **members: object
    ) -> None:
        """Append a message to the run's conversation.

        Args:
            message_id: Identifies it.
            role: Who speaks: assistant, tool.
            content: The text, of any length.
            node: Where it was written.
            members: What else is known, of any size.
        """
        more: dict[str, Any] = self._values.of(members)
        message = AgentMessage(
            id=message_id,
            run_id=self.run_id,
            role=role,
            content=self._values.text("content", content, TEXT_MAX_CHARS),
            **{**more, "node": None if node is None else node.name},
        )
        self._send(self._project_id, "agent.message.appended", message)

    def _close(
        self,
        node: Node,
        status: Status,
        changes: Mapping[str, object] | None = None,
        error: str | None = None,
    ) -> None:
        if node.unseen is not None:
            self.text(node, node.unseen, last=True)
        del self._open[node.id]
        if status is Status.COMPLETED:
            self._attempts.pop(node.id, None)
        if self._kind == "agent":
            self._emit_step(node, status, error)
        if status is Status.FAILED:
            if self._kind == "workflow":
                self._send_node("workflow.node.failed", node, status, error=error)
            return
        self._send_node("workflow.node_state.updated", node, status, changes or {})
        if self._kind == "workflow" and status is Status.COMPLETED:
            self._send_node("workflow.node.completed", node, status)

    def _emit_run(self, what: str, status: Status, error: str | None = None) -> None:
        if not self._own:
            return
        members: dict[str, Any] = {
            "id": self.run_id,
            "project_id": self._project_id,
            "name" if self._kind == "agent" else "workflow": self._name,
            "status": status.value,
            "stage": self._stage,
            "progress": 1.0 if status is Status.COMPLETED else None,
            "error_message": error,
        }
        run = AgentRun(**members) if self._kind == "agent" else WorkflowRun(**members)
        self._send(self._project_id, f"{self._kind}.run.{what}", run, error)

    def _emit_step(self, node: Node, status: Status, error: str | None = None) -> None:
        more: dict[str, Any] = {"path": node.path, "attempt": node.attempt, "text": node.text}
        step = AgentStep(
            id=node.id,
            run_id=self.run_id,
            name=node.name,
            status=status.value,
            error_message=error,
            **more,
        )
        self._send(self._project_id, "agent.step.updated", step, error)

    def _send_node(
        self,
        event_type: str,
        node: Node,
        status: Status,
        changes: Mapping[str, object] | None = None,
        error: str | None = None,
    ) -> None:
        members: dict[str, Any] = {
            "path": node.path,
            "attempt": node.attempt,
            "step": node.step,
        }
        if changes is not None:
            members["values"] = self._values.of(changes)
            members["keys"] = list(members["values"])
        state = AgentNodeState(
            id=node.id,
            run_id=self.run_id,
            node=node.name,
            status=status.value,
            error_message=error,
            **members,
        )
        self._send(self._project_id, event_type, state, error)

    def _message_of(self, error: BaseException | None) -> str | None:
        if error is None:
            return None
        text = str(error) or type(error).__name__
        return self._values.text("error_message", text, _ERROR_MAX_CHARS)
