"""Which events become a frame, and when. Pure: `now` is an argument."""

from tailrace.batching.block import Block, Logged
from tailrace.batching.coalesce import Coalescer, Folded
from tailrace.batching.journal import UNKNOWN_TIMESTAMP, Journal, RunStart
from tailrace.batching.watched import Watched
from tailrace.batching.window import Paced, Windows

__all__ = [
    "UNKNOWN_TIMESTAMP",
    "Block",
    "Coalescer",
    "Folded",
    "Journal",
    "Logged",
    "Paced",
    "RunStart",
    "Watched",
    "Windows",
]
