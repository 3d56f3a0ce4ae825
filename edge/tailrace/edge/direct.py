"""Writes frames straight into a plain TCP socket, and through its transport where that is not safe.

`transport.write` queues a frame and sends it in the next turn of the loop, which costs more than
the call itself; `python -m bench hot` has what a delivery costs.
"""

import asyncio
import os
import socket
from collections.abc import Callable

__all__ = ["direct_writer"]


def direct_writer(transport: asyncio.Transport) -> Callable[[bytes], object]:
    """Return what puts one whole frame into a transport's socket, behind all that waits there.

    The order of bytes is kept because a frame goes directly only while nothing waits in the
    transport, and what the socket does not take is left to the transport. Loops call
    `connection_lost` before they close a descriptor: do not write from then on, for by then it may
    be another connection's.

    Args:
        transport: Everything that is written to it beside is written by the same thread.

    Returns:
        A function that raises RuntimeError or OSError when the connection is lost.
    """
    sock = transport.get_extra_info("socket")
    plain = (
        sock is not None
        and sock.family in {socket.AF_INET, socket.AF_INET6}
        and transport.get_extra_info("sslcontext") is None
    )
    if not plain:
        return transport.write
    descriptor, waiting = sock.fileno(), transport.get_write_buffer_size
    send, queue = os.write, transport.write

    def write(frame: bytes) -> None:
        if waiting():
            queue(frame)
            return
        try:
            sent = send(descriptor, frame)
        except BlockingIOError:
            sent = 0
        if sent < len(frame):
            queue(frame[sent:])

    return write
