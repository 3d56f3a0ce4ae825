"""``tailrace topics create``: the topic from the command line."""

import argparse
import asyncio
from typing import Final

from tailrace.cli.topics import DEFAULT_PARTITIONS, TopicOutcome, create_topic, target

__all__ = ["add_arguments", "outcome_line", "run"]

_MOST_PARTITIONS: Final = 10_000
_MOST_COPIES: Final = 32_767


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the one action and its options."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    summary = (
        "create the topic TAILRACE_TOPIC (default tailrace.events) at KAFKA_BOOTSTRAP_SERVERS "
        "(default 127.0.0.1:9092) unless it is there"
    )
    create = actions.add_parser("create", help=summary, description=summary)
    create.add_argument(
        "--partitions",
        type=lambda text: _count(text, _MOST_PARTITIONS),
        default=DEFAULT_PARTITIONS,
        metavar="N",
        help="for good: changing them later means a gap for viewers (default: %(default)s)",
    )
    create.add_argument(
        "--replication",
        type=lambda text: _count(text, _MOST_COPIES),
        metavar="N",
        help="copies of each record (default: 3, or as many as there are brokers)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Create the topic and say in one line what is there now."""
    wanted = {"partitions": arguments.partitions, "replication": arguments.replication}
    outcome = asyncio.run(create_topic(target(), **wanted))
    print(outcome_line(outcome, asked=arguments.partitions))
    return 0


def outcome_line(outcome: TopicOutcome, *, asked: int) -> str:
    """Say what ``create_topic`` found or made."""
    if outcome.created:
        return f"{outcome.topic}: created, partitions: {outcome.partitions}"
    if outcome.partitions == asked:
        return f"{outcome.topic}: exists, partitions: {outcome.partitions}"
    return f"{outcome.topic}: exists with {outcome.partitions} partitions, not {asked}; left as is"


def _count(text: str, most: int) -> int:
    if text.isdecimal() and 1 <= int(text) <= most:
        return int(text)
    raise argparse.ArgumentTypeError(f"not a number from 1 to {most}: {text!r}")
