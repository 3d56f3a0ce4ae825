"""What is said over one `tailrace.v1.json` connection: commands in, answers out."""

import secrets
import time
from collections.abc import Mapping

import orjson

from tailrace.edge.channel import Channel
from tailrace.edge.dialect import Dialect, message
from tailrace.edge.locate import Start
from tailrace.edge.node import Node
from tailrace.edge.request import StreamRequest, parse_subscribe
from tailrace.edge.session import Session, Subscription
from tailrace.schemas import ParameterError, Position, UnavailableError, format_cursor

__all__ = ["MAX_SUBSCRIPTIONS", "Conversation"]

MAX_SUBSCRIPTIONS = 256
"""Channels of one connection; one more is answered with an error."""


class Conversation:
    """The commands of one connection and what it has subscribed to.

    Args:
        node: Serves it.
        session: The connection.
        deflated: Whether it takes compressed messages.
    """

    __slots__ = ("_dialect", "_node", "_session", "_subscriptions")

    def __init__(self, node: Node, session: Session, *, deflated: bool = False) -> None:
        self._node = node
        self._dialect = Dialect.V1_DEFLATED if deflated else Dialect.V1
        self._session = session
        self._subscriptions: dict[str, Subscription] = {}

    def hello(self) -> bytes:
        """Return the first message of a connection, as a frame."""
        settings = self._node.settings
        return message(
            "hello",
            v=1,
            session=secrets.token_hex(8),
            node=self._node.name,
            heartbeat_ms=settings.heartbeat_ms,
        )

    async def hear(self, text: str) -> None:
        """Answer one command; what is no command costs an error, and an unknown one nothing."""
        try:
            command = orjson.loads(text)
        except orjson.JSONDecodeError:
            self._error(None, "bad_json", "not JSON")
            return
        if not isinstance(command, dict):
            self._error(None, "bad_request", "not a JSON object")
            return
        number = None
        try:
            number = _echoed(command, "id")
            await self._do(command, number)
        except ParameterError as error:
            self._error(number, "bad_request", str(error))
        except UnavailableError as error:
            self._error(number, "unavailable", str(error))

    async def _do(self, command: Mapping[str, object], number: object) -> None:
        match command.get("t"):
            case "subscribe":
                await self.subscribe(parse_subscribe(command), number)
            case "unsubscribe":
                self._unsubscribe(command.get("ch"), number)
            case "ping":
                self._say("pong", at=_echoed(command, "at"), now_us=time.time_ns() // 1000)
            case _:  # receivers ignore what they do not know
                pass

    async def subscribe(self, request: StreamRequest, number: object = None) -> None:
        """Follow a channel and say so; an `id` of None stands for the channel of the URL.

        Raises:
            ParameterError: It is followed already, or there are too many.
            UnavailableError: Kafka does not answer.
        """
        name = request.key.name
        if name in self._subscriptions:
            raise ParameterError("ch", f"{name[:200]} is subscribed already")
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise ParameterError("ch", f"more than {MAX_SUBSCRIPTIONS} on one connection")

        def make(channel: Channel, position: Position, start: Start) -> Subscription:
            subscription = Subscription(self._session, self._dialect, channel, position)
            self._subscriptions[name] = subscription
            self._say(
                "subscribed",
                **_numbered(number),
                ch=name,
                cursor=format_cursor(position),
                resumed=start.resumed,
                gap=None if start.gap is None else {"reason": start.gap},
            )
            return subscription

        await self._node.subscribe(request, make)

    def _unsubscribe(self, name: object, number: object) -> None:
        subscription = self._subscriptions.pop(name, None) if isinstance(name, str) else None
        if subscription is None:
            raise ParameterError("ch", "not subscribed")
        self._leave(subscription)
        self._say("unsubscribed", **_numbered(number), ch=name)

    def end(self) -> None:
        """Forget everything that was subscribed."""
        for subscription in self._subscriptions.values():
            self._leave(subscription)
        self._subscriptions.clear()

    def _leave(self, subscription: Subscription) -> None:
        subscription.left = True
        self._node.unsubscribe(subscription)

    def _error(self, number: object, code: str, text: str) -> None:
        self._say("error", **_numbered(number), code=code, message=text)

    def _say(self, t: str, **members: object) -> None:
        self._session.write(message(t, **members))


def _echoed(command: Mapping[str, object], name: str) -> object:
    """Return a member that the answer repeats: nothing nested, which might not be writable."""
    value = command.get(name)
    if isinstance(value, dict | list):
        raise ParameterError(name, "a number or a string")
    return value


def _numbered(number: object) -> dict[str, object]:
    return {} if number is None else {"id": number}
