"""``tailrace services``: run the reference services."""

import argparse
import asyncio
import signal

import structlog
from aiohttp import web
from pydantic import ValidationError

from tailrace.cli.errors import ListenError, SettingsError
from tailrace.producers import Emitter, ProducerSettings, StreamingService
from tailrace.services import ServicesSettings, create_app

__all__ = ["add_arguments", "run"]

_log = structlog.get_logger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where to listen."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8401, help="port to listen on (8401)")


def run(args: argparse.Namespace) -> int:
    """Run the services until SIGTERM or Ctrl-C; what they emitted is sent before the end.

    Raises:
        SettingsError: A setting is refused.
        ListenError: The port is taken.
    """
    try:
        settings, producing = ServicesSettings(), ProducerSettings(source="tailrace-services")
    except ValidationError as error:
        raise SettingsError(error) from error
    asyncio.run(_serve(settings, producing, args.host, args.port))
    return 0


async def _serve(
    settings: ServicesSettings, producing: ProducerSettings, host: str, port: int
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Emitter(producing) as emitter:
        app = create_app(settings, StreamingService(emitter), emitter.stats)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            _log.info("services listening", url=f"http://{host}:{port}")
            await stop.wait()
        except OSError as error:
            raise ListenError(host, port, error.strerror or str(error)) from error
        finally:
            await runner.cleanup()
