"""AgentService: a tool-calling loop that works on a goal over a project's documents."""

from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import import_module
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    ToolCall,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.tools import BaseTool
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.graph.state import CompiledStateGraph

from tailrace.producers.graph_run import GraphEvents
from tailrace.producers.langgraph import tailrace_handler
from tailrace.schemas import AgentMessage, ParameterError
from tailrace.services.agent_tools import tools_of
from tailrace.services.graph_service import GraphService, StepsRun
from tailrace.services.index import SearchIndex
from tailrace.services.lifecycle import Active, Capacity, utc_now
from tailrace.services.offline_model import OfflineModel
from tailrace.services.runs import changed, moment
from tailrace.services.store import RunStore

__all__ = ["AgentJob", "AgentService", "agent_graph", "chat_model"]

_STEPS_AHEAD = 2


class AgentJob(StepsRun):
    """A run of the agent. Nobody knows its end: until it is done, two steps count as ahead."""

    goal: str
    answer: str | None = None


class _State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


_Graph = CompiledStateGraph[_State, None, _State, _State]


def chat_model(setting: str | None, pace: float = 0.0) -> BaseChatModel:
    """Return the chat model that an operator has chosen; without a choice the offline one.

    Args:
        setting: ``package.module:factory``; the factory is called without arguments.
        pace: Seconds that the offline one waits after each word.

    Raises:
        ParameterError: It is not there, or does not make a chat model.
    """
    if setting is None:
        return OfflineModel(pace=pace)
    module, _, factory = setting.partition(":")
    try:
        made = getattr(import_module(module), factory)()
    except (ImportError, AttributeError, TypeError, ValueError) as exc:
        raise ParameterError("chat_model", f"{setting!r} cannot be used: {exc}") from exc
    if not isinstance(made, BaseChatModel):
        raise ParameterError("chat_model", f"{setting!r} makes a {type(made).__name__}")
    return made


def agent_graph(model: BaseChatModel, tools: list[BaseTool]) -> _Graph:
    """Return the loop: the model thinks, its tool calls are made, until there are none."""
    bound = model.bind_tools(tools)
    by_name = {tool.name: tool for tool in tools}

    async def think(state: _State) -> dict[str, list[BaseMessage]]:
        said: Any = None
        async for chunk in bound.astream(state["messages"]):
            said = chunk if said is None else said + chunk
        return {"messages": [message_chunk_to_message(said)]}

    async def act(state: _State) -> dict[str, list[BaseMessage]]:
        calls = _calls(state)
        return {"messages": [await _result(by_name, call) for call in calls]}

    graph = StateGraph(_State)
    graph.add_node("think", think)
    graph.add_node("act", act)
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", lambda state: "act" if _calls(state) else END)
    graph.add_edge("act", "think")
    return graph.compile(name="agent")


def _calls(state: _State) -> list[ToolCall]:
    last = state["messages"][-1]
    return last.tool_calls if isinstance(last, AIMessage) else []


async def _result(tools: Mapping[str, BaseTool], call: ToolCall) -> ToolMessage:
    tool = tools.get(call["name"])
    if tool is None:
        known = ", ".join(tools)
        return ToolMessage(
            f"there is no tool {call['name']!r}, only {known}",
            name=call["name"],
            tool_call_id=call["id"],
            status="error",
        )
    answer = await tool.ainvoke(call)
    assert isinstance(answer, ToolMessage), "a tool call is answered so"
    return answer


class AgentService(GraphService[AgentJob]):
    """Works on goals; see `RunService`.

    The goal, what the model says and what the tools answer are messages of the run; the graph's
    nodes are its steps.

    Args:
        store: The runs.
        index: The documents.
        model: Any chat model that can call tools.
        events: Where to emit.
        capacity: How much it takes on at once.
        max_steps: How many steps a run may take; then it fails.
        now: The clock, in UTC.
    """

    def __init__(
        self,
        *,
        store: RunStore[AgentJob],
        index: SearchIndex,
        model: BaseChatModel,
        events: GraphEvents,
        capacity: Capacity,
        max_steps: int = 25,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(store, capacity, now)
        self._index = index
        self._model = model
        self._events = events
        self._max_steps = max_steps

    async def submit(self, project_id: str, goal: str) -> AgentJob:
        """Queue a run for a goal and return it.

        Raises:
            DrainingError: The service is shutting down.
            QueueFullError: As many runs wait or are worked on as the capacity allows.
            StorageError: The run cannot be saved.
        """
        return await self._take(lambda run_id: self._new(run_id, project_id, goal))

    def _new(self, run_id: str, project_id: str, goal: str) -> AgentJob:
        at = moment(self._now())
        return AgentJob(id=run_id, project_id=project_id, goal=goal, created_at=at, updated_at=at)

    async def _perform(self, active: Active[AgentJob]) -> None:
        run = active.run
        self._say_goal(run)
        graph = agent_graph(self._model, tools_of(self._index, run.project_id))
        handler = tailrace_handler(
            run.project_id, run.id, kind="agent", own_runs=False, events=self._events
        )
        start = {"messages": [HumanMessage(run.goal)]}
        last = await self._drive(active, graph, start, handler, self._max_steps)
        answer = str(last["messages"][-1].text)
        active.run = changed(active.run, self._now(), progress=1.0, answer=answer)

    def _say_goal(self, run: AgentJob) -> None:
        message = AgentMessage(id=f"{run.id}-goal", run_id=run.id, role="user", content=run.goal)
        self._events.emit_agent_event(run.project_id, "agent.message.appended", message)

    def _share(self, steps_done: int, _state: Mapping[str, Any]) -> float:
        return steps_done / (steps_done + _STEPS_AHEAD)

    def _emit(self, run: AgentJob, what: str) -> None:
        self._events.emit_agent_event(
            run.project_id, f"agent.run.{what}", run, error=run.error_message
        )
