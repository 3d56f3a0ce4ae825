"""Writes frames straight into a plain TCP socket, and through its transport where that is not safe.

`transport.write` queues a frame and sends it in the next turn of the loop, which costs more than
the call itself; `python -m bench hot` has what a delivery costs.
"""

import asyncio
import os
import socket
from typing import Protocol

__all__ = ["Gate", "Offer", "direct_writer"]


class Gate:
    """Whether a connection still takes frames; apart, so that its writer need not refer to it."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = True


class Offer(Protocol):
    """Puts one whole frame into a socket, behind all that waits there."""

    def __call__(self, frame: bytes, most: int = ...) -> bool | None:
        """Write a frame.

        Args:
            frame: To be written whole.
            most: Bytes that may wait before it.

        Returns:
            True when it was taken, None when the socket is full, which changes nothing, and False
            when the connection is closed or lost, which closes its gate.
        """


def direct_writer(transport: asyncio.Transport, gate: Gate, most: int) -> Offer:
    """Return what puts one whole frame into a transport's socket, behind all that waits there.

    The order of bytes is kept because a frame goes directly only while nothing waits in the
    transport, and what the socket does not take is left to the transport. Loops call
    `connection_lost` before they close a descriptor: close the gate then, for afterwards it may be
    another connection's.

    One closure over everything it needs: it is called for each delivery, and each attribute and
    each further call would cost a part of what the kernel takes for the send.

    Args:
        transport: Everything that is written to it beside is written by the same thread.
        gate: Nothing is written once it is closed.
        most: Bytes that wait in a socket that is full, and one more.
    """
    waiting, queue = transport.get_write_buffer_size, transport.write
    descriptor = _descriptor(transport)
    send = os.write

    def write(frame: bytes, most: int = most) -> bool | None:
        if not gate.open:
            return False
        try:
            held = waiting()
            if held > most:
                return None
            if held or descriptor is None:
                queue(frame)
                return True
            try:
                sent = send(descriptor, frame)
            except BlockingIOError:
                sent = 0
            if sent < len(frame):
                queue(frame[sent:])
        except (RuntimeError, OSError):  # lost abruptly; its protocol is about to hear of it
            gate.open = False
            return False
        return True

    return write


def _descriptor(transport: asyncio.Transport) -> int | None:
    """Return where to write directly; None where bytes are more than what is sent, as with TLS."""
    sock = transport.get_extra_info("socket")
    plain = (
        sock is not None
        and sock.family in {socket.AF_INET, socket.AF_INET6}
        and transport.get_extra_info("sslcontext") is None
    )
    return sock.fileno() if plain else None
