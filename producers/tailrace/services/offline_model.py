"""A chat model of rules: it needs no network and no weights, and uses the agent's tools.

It calculates what looks like arithmetic, counts where it is asked how many, and else searches the
words of the goal, reads the best document and quotes what it found.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import orjson
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

__all__ = ["OfflineModel", "next_message"]

_ARITHMETIC = re.compile(
    r"\(*-?\d+(?:\.\d+)?[ )]*(?:(?:\*\*|//|[-+*/%])[ (]*-?\d+(?:\.\d+)?[ )]*)+"
)
_COUNTING = re.compile(r"\b(?:how many|count|number of)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]\w+")
_WORDS = re.compile(r"\S+\s*")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_SILENT = frozenset(
    "about also and any are calculate can count describe do document documents does find for from"  # noqa: SIM905 - the formatter would give each word a line
    " give have how ingested is many me number of please say says search show summarise summarize"
    " tell that the their them there these they this those was were what when where which who why"
    " with you".split()
)
_QUOTE_SENTENCES = 3
_NO_PROSE = ("#", "|", "```", "![")


def next_message(messages: Sequence[BaseMessage]) -> AIMessage:
    """Return what to say next: a call of a tool, or the answer. Pure.

    Args:
        messages: The conversation; its first human message is the goal.
    """
    goal = next((str(m.text) for m in messages if isinstance(m, HumanMessage)), "")
    answers = {m.name: str(m.text) for m in messages if isinstance(m, ToolMessage) and m.name}
    for name, arguments in _plan(goal, answers):
        if name not in answers:
            call = {"name": name, "args": arguments, "id": f"call-{len(messages)}"}
            return AIMessage(content="", tool_calls=[{**call, "type": "tool_call"}])
    return AIMessage(content=_answer(goal, answers))


def _plan(goal: str, answers: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the calls that the goal needs, as far as their arguments are known."""
    arithmetic = _ARITHMETIC.search(goal)
    counting = _COUNTING.search(goal)
    if arithmetic is not None:
        yield "calculate", {"expression": arithmetic.group().strip()}
    if counting is not None:
        yield "count", {}
    words = _words(goal)
    if words:
        yield "search", {"query": " ".join(words)}
        hits = _hits(answers)
        if hits:
            yield "read", {"source": hits[0]["source"]}


def _words(goal: str) -> list[str]:
    return [word for word in _WORD.findall(goal) if word.lower() not in _SILENT]


def _hits(answers: dict[str, str]) -> list[dict[str, str]]:
    try:
        hits: list[dict[str, str]] = orjson.loads(answers.get("search", "[]"))
    except orjson.JSONDecodeError:  # the tool told what went wrong
        return []
    return hits


def _answer(goal: str, answers: dict[str, str]) -> str:
    parts = []
    if "calculate" in answers:
        parts.append(f"The result is {answers['calculate']}.")
    if "count" in answers:
        parts.append(f"There are {answers['count']} ingested documents.")
    if "search" in answers:
        parts.append(_quoted(goal, answers))
    return "\n\n".join(parts) or "Ask me about the ingested documents, or to calculate something."


def _quoted(goal: str, answers: dict[str, str]) -> str:
    words = {word.lower() for word in _words(goal)}
    hits = _hits(answers)
    if not hits:
        return f"I found nothing about {', '.join(sorted(words))}."
    text = " ".join([hits[0]["text"], answers.get("read", "")])
    sentences = dict.fromkeys(_SENTENCE.split(text))
    said = [sentence for sentence in sentences if not sentence.startswith(_NO_PROSE)]
    telling = [s.strip() for s in said if words & {w.lower() for w in _WORD.findall(s)}]
    quote = " ".join(telling[:_QUOTE_SENTENCES]) or hits[0]["text"]
    others = len({hit["source"] for hit in hits}) - 1
    more = f" {others} more documents mention it." if others else ""
    return f"{hits[0]['title']} says: {quote}{more}"


class OfflineModel(BaseChatModel):
    """`next_message` as a LangChain chat model that streams word by word."""

    pace: float = 0.0
    """Seconds to wait after each word. For demonstrations."""

    @property
    def _llm_type(self) -> str:
        return "tailrace-offline"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],  # noqa: ARG002 - the base class names it
        *,
        tool_choice: str | None = None,  # noqa: ARG002
        **_: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model itself: it knows the agent's tools."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - the base class names it
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **_: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=next_message(messages))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - the base class names it
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for piece in _pieces(next_message(messages)):
            chunk = ChatGenerationChunk(message=piece)
            if run_manager is not None:
                await run_manager.on_llm_new_token(str(piece.text), chunk=chunk)
            yield chunk
            await asyncio.sleep(self.pace)


def _pieces(message: AIMessage) -> Iterator[AIMessageChunk]:
    for number, call in enumerate(message.tool_calls):
        arguments = orjson.dumps(call["args"]).decode()
        chunk = tool_call_chunk(name=call["name"], args=arguments, id=call["id"], index=number)
        yield AIMessageChunk(content="", tool_call_chunks=[chunk])
    for word in _WORDS.findall(str(message.text)):
        yield AIMessageChunk(content=word)
