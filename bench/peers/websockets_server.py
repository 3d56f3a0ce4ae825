"""websockets: its own `broadcast`, which writes to every viewer without waiting for any.

python -m bench.peers.websockets_server --port PORT (--kafka … --topic … | --feed …)
"""

import asyncio
from collections import defaultdict

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from bench.peers.source import arguments, consume

_viewers: defaultdict[int, set[ServerConnection]] = defaultdict(set)


async def _handler(ws: ServerConnection) -> None:
    assert ws.request is not None, "its handshake is over"
    viewers = _viewers[int(ws.request.path.strip("/"))]
    viewers.add(ws)
    try:
        await ws.wait_closed()
    finally:
        viewers.discard(ws)


async def _publish(project: int, text: str) -> None:
    broadcast(_viewers[project], text)
    await asyncio.sleep(0)  # broadcast never gives the loop a turn


async def _main() -> None:
    args = arguments().parse_args()
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(consume(args, ready, lambda p: bool(_viewers.get(p)), _publish))
        await ready.wait()
        async with serve(_handler, "127.0.0.1", args.port, compression=None, backlog=4096):
            await asyncio.Future()


if __name__ == "__main__":
    uvloop.run(_main())
