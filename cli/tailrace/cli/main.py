"""The ``tailrace`` command: finds the subcommand, runs it, turns its end into an exit code."""

import argparse
import importlib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, cast

import structlog

from tailrace.cli.errors import MissingExtraError
from tailrace.schemas.errors import TailraceError

__all__ = ["COMMANDS", "Command", "CommandModule", "main", "parse"]

DONE: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 130


class Command(NamedTuple):
    """A subcommand; its module is imported only when it is asked for."""

    module: str
    summary: str
    extra: str = ""
    """The extras with the packages that it needs beside the usual ones, comma-separated."""


class CommandModule(Protocol):
    """What the module of a subcommand offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its options, positional arguments and actions."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it and return the exit code; what fails raises a TailraceError."""


COMMANDS: Final = {
    "kafka": Command("tailrace.cli.kafka_command", "run a real local Kafka, without Docker"),
    "topics": Command("tailrace.cli.topics_command", "create the topic that carries the events"),
    "edge": Command(
        "tailrace.cli.edge_command", "run an edge node, which serves the viewers", "edge"
    ),
    "services": Command(
        "tailrace.cli.services_command", "run the three reference services", "edge,langgraph"
    ),
    "produce": Command("tailrace.cli.produce_command", "send events from NDJSON lines"),
    "tail": Command("tailrace.cli.tail_command", "follow a stream in the terminal", "client"),
    "demo": Command(
        "tailrace.cli.demo_command", "run everything on real input, with a page", "edge,langgraph"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand: 0 done, 1 failed, 130 interrupted; bad usage exits with 2.

    A failure is one line on stderr. A reader that closes the pipe early ends the command quietly
    with 0: it has seen all it wanted.
    """
    _log_to_stderr()
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except TailraceError as error:
        print("tailrace:", " ".join(str(error).split()), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered must not fail again when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return code


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; ``run`` of the result is to be called with the result.

    Bad usage, ``--help`` and ``--version`` raise SystemExit, as argparse does.

    Raises:
        MissingExtraError: The subcommand's packages are not installed.
    """
    root = argparse.ArgumentParser(
        prog="tailrace", description="Ordered, resumable live events from Kafka to the browser."
    )
    root.add_argument("--version", action="version", version=importlib.metadata.version("tailrace"))
    subparsers = root.add_subparsers(metavar="COMMAND", required=True)
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        parser = subparsers.add_parser(name, help=command.summary, description=command.summary)
        if name == asked:
            module = _load(name, command)
            module.add_arguments(parser)
            parser.set_defaults(run=module.run)
    return root.parse_args(argv)


def _load(name: str, command: Command) -> CommandModule:
    try:
        return cast("CommandModule", importlib.import_module(command.module))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not command.extra or package in {"", "tailrace"}:
            raise
        raise MissingExtraError(name, command.extra, package) from error


def _log_to_stderr() -> None:
    """Keep stdout for results, and silence the Kafka client: the command's own line says it."""
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
