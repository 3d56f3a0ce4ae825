"""``tailrace kafka up|down|status``: the local Kafka from the command line."""

import argparse
import os
from pathlib import Path
from typing import Final

from tailrace.cli.errors import NotRunningError
from tailrace.cli.local_kafka import LocalKafka, NodeStatus

__all__ = ["add_arguments", "default_data", "run"]

_DEFAULT_PORT: Final = 9092
_LAST_PORT: Final = 65533
"""Two more may follow it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three actions and the options that say which Kafka is meant."""
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument(
        "--data", type=Path, metavar="DIR", help="where it lives (default: one folder per port)"
    )
    which.add_argument(
        "--port",
        type=_port,
        default=_DEFAULT_PORT,
        metavar="N",
        help="of the first broker; 0: any that is free (default: %(default)s)",
    )
    which.add_argument(
        "--brokers", type=int, choices=(1, 3), default=1, help="how many (default: %(default)s)"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, summary in _SUMMARIES.items():
        actions.add_parser(name, parents=[which], help=summary, description=summary)


def run(arguments: argparse.Namespace) -> int:
    """Do the action; ``up`` prints the bootstrap servers and leaves Kafka running."""
    data = arguments.data or default_data(arguments.port)
    kafka = LocalKafka(data, port=arguments.port, brokers=arguments.brokers)
    match arguments.action:
        case "up":
            print(kafka.up())
        case "down":
            print("stopped" if kafka.down() else "nothing was running")
        case _:
            _print_status(data, kafka.status())
    return 0


def default_data(port: int) -> Path:
    """Return the data folder below ``XDG_STATE_HOME``, by default ``~/.local/state``."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "tailrace" / f"kafka-{port}"


_SUMMARIES: Final = {
    "up": "start it in the background and print its bootstrap servers",
    "down": "stop it; topics and records stay",
    "status": "say which brokers answer; fails unless all do",
}


def _print_status(data: Path, nodes: list[NodeStatus]) -> None:
    for node in nodes:
        print(_status_line(node))
    silent = sum(not node.answers for node in nodes)
    if silent or not nodes:
        raise NotRunningError(data, silent, len(nodes))


def _status_line(node: NodeStatus) -> str:
    process = "not running" if node.pid is None else f"pid {node.pid}"
    answer = "answers" if node.answers else "no answer"
    return f"broker {node.id}  {node.address}  {answer}  {process}  log {node.log}"


def _port(text: str) -> int:
    if text.isdecimal() and int(text) <= _LAST_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"not a port from 0 to {_LAST_PORT}: {text!r}")
