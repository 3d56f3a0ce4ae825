"""What the services that run graphs share: a graph's tasks move the run on."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import structlog
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphRecursionError
from langgraph.graph.state import CompiledStateGraph

from tailrace.producers.graph_values import updates_of
from tailrace.producers.langgraph import TailraceHandler, is_node
from tailrace.schemas import TailraceError
from tailrace.services.errors import RunFailedError
from tailrace.services.lifecycle import Active, RunService
from tailrace.services.runs import Run, changed

__all__ = ["GraphService", "Pace", "StepsRun", "StepsRunT"]

_log = structlog.get_logger(__name__)


class StepsRun(Run):
    """A run that goes step by step."""

    steps_done: int = 0


StepsRunT = TypeVar("StepsRunT", bound=StepsRun)


class Pace(AsyncCallbackHandler):
    """Lets each node of a graph wait before its work, so that people can watch it run.

    Args:
        seconds: How long on average; by the node's run it is half of it up to one and a half.
    """

    run_inline = True  # the node waits for it, and handlers before it have been told

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def on_chain_start(
        self,
        *_: object,
        run_id: UUID,
        tags: Sequence[str] | None = None,
        **__: object,
    ) -> None:
        """Wait, if it is a node that starts."""
        if is_node(tags):
            await asyncio.sleep(self._seconds * (0.5 + run_id.int % 101 / 100))


class GraphService(RunService[StepsRunT]):
    """Runs graphs. Cancelling works in the middle of a node.

    The run's stage is the node that began last. A thread that a node waits for cannot be cancelled:
    it is left to come to its end alone.
    """

    @abstractmethod
    def _share(self, steps_done: int, state: Mapping[str, Any]) -> float:
        """Return which share of the work is done, 0 … 1, by the state after a step."""

    async def _drive(
        self,
        active: Active[StepsRunT],
        graph: CompiledStateGraph[Any, Any, Any, Any],
        state: Mapping[str, Any],
        handler: TailraceHandler,
        max_steps: int,
    ) -> Mapping[str, Any]:
        """Run a graph to its end and return its last state.

        Raises:
            RunStoppedError: The run was asked to stop.
            TailraceError: A node raised it.
            RunFailedError: A node raised something else, or there were too many steps.
        """
        pace = self._capacity.pace
        paced = [Pace(pace)] if pace else []
        config: RunnableConfig = {"callbacks": [handler, *paced], "recursion_limit": max_steps}
        try:
            return await active.unless_stopped(self._follow(active, graph, state, config))
        except TailraceError:
            raise
        except GraphRecursionError as exc:
            raise RunFailedError(f"it did not come to its end in {max_steps} steps") from exc
        except Exception as exc:
            _log.exception("graph_failed", run=active.run.id)
            raise RunFailedError(str(exc) or type(exc).__name__) from exc

    async def _follow(
        self,
        active: Active[StepsRunT],
        graph: CompiledStateGraph[Any, Any, Any, Any],
        state: Mapping[str, Any],
        config: RunnableConfig,
    ) -> Mapping[str, Any]:
        parts: AsyncIterator[Any] = graph.astream(state, config, stream_mode=["tasks", "values"])
        async for mode, chunk in parts:
            if mode == "values":
                state = chunk
            elif "result" in chunk:
                if chunk["error"] is None:
                    self._step(active, {**state, **updates_of(chunk["result"])})
            elif chunk["name"] != active.run.stage:
                await self._enter(active, chunk["name"])
        return state

    def _step(self, active: Active[StepsRunT], state: Mapping[str, Any]) -> None:
        run = active.run
        done = run.steps_done + 1
        progress = max(run.progress, min(1.0, self._share(done, state)))
        active.run = changed(run, self._now(), steps_done=done, progress=progress)
        self._emit(active.run, "updated")
