"""Which events become a frame, and when. Pure: `now` is an argument."""

from tailrace.batching.coalesce import Coalescer, Folded
from tailrace.batching.journal import UNKNOWN_TIMESTAMP, Journal, RunStart
from tailrace.batching.window import Paced, Windows

__all__ = ["UNKNOWN_TIMESTAMP", "Coalescer", "Folded", "Journal", "Paced", "RunStart", "Windows"]
