"""python-socketio on aiohttp: a room per project, `emit` to the room.

python -m bench.peers.socketio_server --port PORT (--kafka … --topic … | --feed …)
"""

import asyncio
import json
from collections import Counter
from typing import Any
from urllib.parse import parse_qs

import socketio
import uvloop
from aiohttp import web

from bench.peers.source import arguments, consume

_sio = socketio.AsyncServer(async_mode="aiohttp", transports=["websocket"])
_rooms: Counter[int] = Counter()


async def _connect(sid: str, environ: dict[str, Any]) -> None:
    """Put a viewer into the room of the project that its URL names."""
    project = int(parse_qs(environ["QUERY_STRING"])["project"][0])
    await _sio.enter_room(sid, str(project))
    await _sio.save_session(sid, {"project": project})
    _rooms[project] += 1


async def _disconnect(sid: str, *_: object) -> None:
    """Count a viewer who has gone."""
    session = await _sio.get_session(sid)
    _rooms[session["project"]] -= 1


async def _publish(project: int, text: str) -> None:
    await _sio.emit("event", json.loads(text), room=str(project))


async def _main() -> None:
    args = arguments().parse_args()
    _sio.on("connect", _connect)
    _sio.on("disconnect", _disconnect)
    app = web.Application()
    _sio.attach(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(consume(args, ready, lambda p: _rooms[p] > 0, _publish))
        await ready.wait()
        await web.TCPSite(runner, "127.0.0.1", args.port, backlog=4096).start()


if __name__ == "__main__":
    uvloop.run(_main())
