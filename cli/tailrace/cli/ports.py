"""TCP ports on the loopback interface: which are free."""

import socket
from collections.abc import Iterable
from contextlib import ExitStack

from tailrace.cli.errors import PortTakenError
from tailrace.cli.kafka_config import HOST

__all__ = ["free_ports", "is_free", "require_free"]


def free_ports(count: int) -> list[int]:
    """Return ``count`` different ports on which nothing listens now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now."""
    with socket.socket() as probe:
        # As Java does: a port whose old connections are still timing out is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def require_free(ports: Iterable[int]) -> None:
    """Check that all are free.

    Raises:
        PortTakenError: One is not.
    """
    for port in ports:
        if not is_free(port):
            raise PortTakenError(port)
