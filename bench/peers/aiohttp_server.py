"""aiohttp: a loop that awaits `send_str` for one viewer after the other, or for all at once.

python -m bench.peers.aiohttp_server loop|gather --port PORT (--kafka … --topic … | --feed …)
"""

import asyncio
from collections import defaultdict

import uvloop
from aiohttp import web

from bench.peers.source import arguments, consume

_viewers: defaultdict[int, set[web.WebSocketResponse]] = defaultdict(set)


async def _handler(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=False, heartbeat=25)
    await ws.prepare(request)
    viewers = _viewers[int(request.match_info["project"])]
    viewers.add(ws)
    try:
        async for _ in ws:
            pass
    finally:
        viewers.discard(ws)
    return ws


async def _send_loop(project: int, text: str) -> None:
    for ws in tuple(_viewers[project]):
        try:
            await ws.send_str(text)
        except ConnectionError:
            _viewers[project].discard(ws)


async def _send_gather(project: int, text: str) -> None:
    sends = (ws.send_str(text) for ws in tuple(_viewers[project]))
    await asyncio.gather(*sends, return_exceptions=True)


async def _main() -> None:
    parser = arguments()
    parser.add_argument("how", choices=("loop", "gather"))
    args = parser.parse_args()
    app = web.Application()
    app.router.add_get("/{project}", _handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    ready = asyncio.Event()
    publish = _send_loop if args.how == "loop" else _send_gather
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(consume(args, ready, lambda p: bool(_viewers.get(p)), publish))
        await ready.wait()
        await web.TCPSite(runner, "127.0.0.1", args.port, backlog=4096).start()


if __name__ == "__main__":
    uvloop.run(_main())
