"""Free ports are told from taken ones."""

import socket

import pytest

from tailrace.cli.errors import PortTakenError
from tailrace.cli.kafka_config import HOST
from tailrace.cli.ports import free_ports, is_free, require_free


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(is_free(port) for port in ports)


@pytest.mark.parametrize("address", [HOST, "0.0.0.0"])
def test_taken_port_is_refused_in_one_line(address: str) -> None:
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(PortTakenError, match=rf"^Port {port} is taken: .*--port$"):
            require_free([*free_ports(1), port])


def test_port_of_a_closed_connection_is_free() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((HOST, port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # first, so that its side waits out the old connection
            assert client.recv(1) == b""
    require_free([port])
