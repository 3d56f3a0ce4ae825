"""Ten thousand viewers who mostly wait: what each holds, and how long the loop stands still."""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from bench.plan import Plan
from bench.processes import rss_bytes
from bench.scenario import Row, Scenario
from bench.servers import SERVERS, Server
from bench.trial import Bench, Outcome, trial

__all__ = ["MEMORY", "STALLS"]

_CALM_SECONDS = 3.0


async def _memory(
    bench: Bench, server: Server, viewers: int, projects: int, minutes: float
) -> Outcome:
    """Compare the server's memory before, with, and after a while with everybody there."""
    async with trial(bench, Plan(projects), server, from_kafka=True) as (run, _):
        pid = run.running.pid
        await asyncio.sleep(_CALM_SECONDS)
        empty = rss_bytes(pid)
        await run.watched_by(run.group("viewers", viewers, flags="idle"))
        await asyncio.sleep(_CALM_SECONDS)
        full = rss_bytes(pid)
        await asyncio.sleep(60 * minutes)
        late = rss_bytes(pid)
        run.figures |= {
            "KB/connection": (full - empty) / viewers / 1024,
            "growth_KB/connection": (late - full) / viewers / 1024,
            "minutes": minutes,
            "rss_MB": late / 2**20,
        }
        return await run.outcome(of=["viewers"])


def _memory_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--viewers", type=int, default=10_000)
    parser.add_argument("--projects", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=1, help="to look for growth")


def _memory_rows(args: argparse.Namespace) -> list[Row]:
    def row(name: str) -> Row:
        async def run(bench: Bench) -> Outcome:
            server = SERVERS[name]
            return await _memory(bench, server, args.viewers, args.projects, args.minutes)

        return Row(name, run, SERVERS[name].ours, kafka=True)

    return [row(name) for name in ("tailrace", "tailrace-plain", "aiohttp-loop", "websockets")]


MEMORY = Scenario(
    "10,000 idle viewers: resident memory of each, and its growth",
    _memory_arguments,
    _memory_rows,
    ("KB/connection", "growth_KB/connection", "minutes", "rss_MB"),
    ("<= 16 KB per connection, no growth over 10 minutes; then 12",),
)


async def _stalls(bench: Bench, plan: Plan, viewers: int) -> Outcome:
    """Let a timer in the server's own loop tell how late it fires, with everybody there."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "stalls.json"
        server = SERVERS["tailrace"]
        server = server._replace(command=(*server.command, "--stalls", str(told)))
        async with trial(bench, plan, server, from_kafka=True) as (run, source):
            await run.watched_by(run.group("viewers", viewers), rate=2000)
            await asyncio.sleep(_CALM_SECONDS)
            calm = len(json.loads(told.read_text()))
            await run.start_feed(source)
            await run.finish_feed()
            worst = json.loads(told.read_text())
            for name, seconds in (("", worst[calm:]), ("connecting_", worst[:calm])):
                late, busy = zip(*seconds, strict=True)
                run.figures[f"worst_{name}stall_ms"] = max(late)
                run.figures[f"worst_{name}busy_ms"] = max(busy)
            return await run.outcome(of=["viewers"])


def _stalls_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--viewers", type=int, default=10_000)
    parser.add_argument("--projects", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=1, help="events/s of each project")


def _stalls_rows(args: argparse.Namespace) -> list[Row]:
    rate = args.projects * args.rate
    plan = Plan(args.projects, rate, seconds=args.seconds, jobs=args.projects, seed=args.seed)

    async def run(bench: Bench) -> Outcome:
        return await _stalls(bench, plan, args.viewers)

    return [Row("tailrace", run, ours=True, kafka=True)]


STALLS = Scenario(
    "the longest time that the edge's loop stands still with 10,000 connected, from Kafka",
    _stalls_arguments,
    _stalls_rows,
    (
        "worst_stall_ms",
        "worst_busy_ms",
        "worst_connecting_stall_ms",
        "worst_connecting_busy_ms",
        "server_cores",
        "facts_p99_ms",
        "facts_max_ms",
    ),
    ("worst stall <= 15 ms",),
    seconds=30,
)
