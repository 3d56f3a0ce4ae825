"""``tailrace edge``: run an edge node."""

import argparse

from pydantic import ValidationError

from tailrace.cli.errors import ListenError, SettingsError
from tailrace.edge.app import run as run_edge
from tailrace.edge.settings import EdgeSettings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; each is a setting too."""
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (8400)")
    parser.add_argument(
        "--insecure", action="store_true", default=None, help="serve everyone, on any address"
    )


def run(args: argparse.Namespace) -> int:
    """Run an edge node until it is told to stop.

    Raises:
        SettingsError: A setting is refused.
        ListenError: The port is taken.
    """
    flags = {name: getattr(args, name) for name in ("host", "port", "insecure")}
    try:
        settings = EdgeSettings(
            **{name: value for name, value in flags.items() if value is not None}
        )
    except ValidationError as error:
        raise SettingsError(error) from error
    try:
        run_edge(settings)
    except OSError as error:
        raise ListenError(settings.host, settings.port, error.strerror or str(error)) from error
    return 0
