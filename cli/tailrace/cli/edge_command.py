"""``tailrace edge``: run an edge node."""

import argparse

from pydantic import ValidationError

from tailrace.cli.errors import ListenError, SettingsError
from tailrace.edge.app import run as run_edge
from tailrace.edge.settings import EdgeSettings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting."""
    for name, field in EdgeSettings.model_fields.items():
        flag, about = f"--{name.replace('_', '-')}", (field.description or "").replace("`", "")
        if field.annotation is bool:
            parser.add_argument(flag, action="store_true", default=None, help=about)
            continue
        parser.add_argument(flag, type=type(field.default), help=f"{about} [{field.default}]")


def run(args: argparse.Namespace) -> int:
    """Run an edge node until it is told to stop.

    Raises:
        SettingsError: A setting is refused.
        ListenError: The port is taken.
    """
    flags = {name: getattr(args, name) for name in EdgeSettings.model_fields}
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
