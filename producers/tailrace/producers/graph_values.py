"""What a node of a graph changed -> a few JSON values that are safe to send. Pure.

A state may hold anything of any size. What leaves here is bounded whatever comes in: never more
than `max_keys` keys, and never much more than `max_chars` characters for each.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from itertools import islice
from pathlib import PurePath
from typing import TypeAlias
from uuid import UUID

from langchain_core.messages import BaseMessage
from langgraph.types import Command
from pydantic import BaseModel

__all__ = ["REDACTED", "Redact", "Values", "role_of", "updates_of"]

REDACTED = "[redacted]"

Redact: TypeAlias = Callable[[str, object], object] | Collection[str]
"""Names whose values are never sent, or a function (name, value) -> what is sent instead."""

_KEY_CHARS = 100
_ITEM_CHARS = 8
"""What each item costs beside its text, so that a long list of nothing ends as well."""
_DEPTH = 6
_ROLES = {"human": "user", "ai": "assistant"}
_TEXT_LIKE = (date, time, UUID, Decimal, PurePath)
_LISTS = (list, tuple, set, frozenset, deque)


def role_of(message: BaseMessage) -> str:
    """Return who speaks: user, assistant, tool, system."""
    kind = message.type.removesuffix("MessageChunk").lower()
    return _ROLES.get(kind, kind)


def updates_of(outputs: object) -> dict[str, object]:
    """Return the keys of the state that a node's outputs change, the last value of each.

    Args:
        outputs: What the node returned: a mapping, a model, a dataclass, a `Command`, or a list of
            these. Anything else changes nothing that has a name.
    """
    if isinstance(outputs, Command):
        return updates_of(outputs.update)
    if isinstance(outputs, list | tuple):
        merged: dict[str, object] = {}
        for output in outputs:
            merged.update([_pair(output)] if _is_pair(output) else updates_of(output))
        return merged
    members = _members(outputs)
    return {} if members is None else {str(name): value for name, value in members.items()}


class Values:
    """The rules of what may be sent of a state.

    Args:
        redact: A collection of names is matched in any case and at any depth; of these, "messages"
            and "content" cover the text of messages too. A function is called for each member at
            any depth, "content" and "error_message" included; where it raises, nothing is sent.
        max_keys: How many keys of an update are sent; the names of the others are lost too.
        max_chars: Bound of the text in one key's value; what is longer ends with "…".
    """

    def __init__(
        self, redact: Redact | None = None, *, max_keys: int = 32, max_chars: int = 1000
    ) -> None:
        self._rule = _rule_of(redact)
        self._max_keys = max_keys
        self._max_chars = max_chars

    def of(self, update: Mapping[str, object]) -> dict[str, object]:
        """Return the bounded, redacted values of an update, by key."""
        return {
            name[:_KEY_CHARS]: _Walk(self._rule, self._max_chars).member(name, value, 0)
            for name, value in islice(update.items(), self._max_keys)
        }

    def text(self, name: str, text: str, max_chars: int) -> str:
        """Return a bounded text that is called `name`, or what is to be sent instead."""
        return str(_Walk(self._rule, max_chars).member(name, text, 0))


class _Walk:
    """The way through one value, with what is left of its characters."""

    def __init__(self, rule: Callable[[str, object], object], max_chars: int) -> None:
        self._rule = rule
        self._left = max_chars

    def member(self, name: str, value: object, depth: int) -> object:
        return self.value(self._rule(name, value), depth)

    def value(self, value: object, depth: int) -> object:
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return value if -(1 << 63) <= value < 1 << 64 else "<int>"
        if isinstance(value, Enum):
            return self.value(value.value, depth)
        if isinstance(value, _TEXT_LIKE):
            return self._text(str(value))
        return self._container(value, depth)

    def _text(self, text: str) -> str:
        kept = text[: max(0, self._left)]
        self._left -= len(kept)
        return kept if len(kept) == len(text) else f"{kept}…"

    def _container(self, value: object, depth: int) -> object:
        members = _members(value)
        if depth >= _DEPTH or (members is None and not isinstance(value, _LISTS)):
            return f"<{type(value).__name__}>"
        if members is None:
            assert isinstance(value, _LISTS)
            return [self.value(item, depth + 1) for item in self._while_left(value)]
        return {
            str(name)[:_KEY_CHARS]: self.member(str(name), members[name], depth + 1)
            for name in self._while_left(members)
        }

    def _while_left(self, items: Collection[object]) -> Iterator[object]:
        for item in items:
            if self._left <= 0:
                return
            self._left -= _ITEM_CHARS
            yield item


def _members(value: object) -> Mapping[object, object] | None:
    """Return the named parts of a value; None when it has none that are known."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseMessage):
        return _of_message(value)
    if isinstance(value, BaseModel):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _of_message(message: BaseMessage) -> dict[object, object]:
    members: dict[object, object] = {"role": role_of(message), "content": message.content}
    calls = getattr(message, "tool_calls", None)
    return {**members, "tool_calls": calls} if calls else members


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)  # noqa: PLR2004


def _pair(value: object) -> tuple[str, object]:
    assert isinstance(value, tuple)
    return value[0], value[1]


def _rule_of(redact: Redact | None) -> Callable[[str, object], object]:
    if redact is None:
        return _sent
    if callable(redact):
        return _guarded(redact)
    names = {name.lower() for name in redact}
    if "messages" in names:
        names.add("content")
    return lambda name, value: REDACTED if name.lower() in names else value


def _sent(_name: str, value: object) -> object:
    return value


def _guarded(redact: Callable[[str, object], object]) -> Callable[[str, object], object]:
    def guarded(name: str, value: object) -> object:
        try:
            return redact(name, value)
        except Exception:  # noqa: BLE001 - the caller's code; what it should have hidden stays here
            return REDACTED

    return guarded
