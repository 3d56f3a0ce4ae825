import asyncio
from contextlib import suppress

from edge_harness import channel_url, make_event, memory_edge, record_of

from tailrace.edge.handshakes import Handshakes


async def test_connection_without_a_whole_request_is_cut_off() -> None:
    async with memory_edge(handshake_seconds=0.2) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")  # and no more
        async with asyncio.timeout(10):
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


async def test_request_in_time_is_awaited_no_more() -> None:
    async with memory_edge(handshake_seconds=0.2) as edge, edge.watch(channel_url("p1")) as viewer:
        assert len(edge.node.handshakes) == 0
        edge.consumer.put(record_of(make_event(n=7)))
        assert (await viewer.event())["job"]["n"] == 7


async def test_timer_ends_with_the_request() -> None:
    async with memory_edge() as edge:
        await edge.get("/healthz", Connection="close")
        assert len(edge.node.handshakes) == 0


async def test_gone_transport_is_nobodys_request() -> None:
    handshakes = Handshakes(1.0)
    handshakes.done(None)
    assert len(handshakes) == 0
