"""Viewers who stopped reading: what they do to the others, and what they cost."""

import argparse
from collections.abc import Mapping

from bench.plan import Plan
from bench.processes import queued_bytes, rss_bytes
from bench.scenario import Row, Scenario
from bench.servers import SERVERS, Server
from bench.trial import Bench, Outcome, trial

__all__ = ["SLOW"]


async def _run(bench: Bench, server: Server, plan: Plan, viewers: int, stalled: int) -> Outcome:
    """Feed healthy viewers and stalled ones; at the end these wake and must get everything too."""
    async with trial(bench, plan, server, from_kafka=True) as (run, source):
        await run.watched_by(run.group("healthy", viewers))
        if stalled:
            await run.watched_by(run.group("stalled", stalled, flags="stalled resume"))
        await run.start_feed(source)
        before = rss_bytes(run.running.pid)
        await run.finish_feed()
        held = queued_bytes(run.running.port) / max(1, stalled)
        grown = rss_bytes(run.running.pid) - before
        run.figures |= {"kernel_bytes/stalled": held, "rss_growth_bytes": grown}
        if stalled and server.ours:
            await run.load.command("wake", "stalled")
            await run.complete()
        return await run.outcome(of=["healthy"])


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--viewers", type=int, default=500)
    parser.add_argument("--stalled", type=int, default=50)
    parser.add_argument("--rate", type=float, default=50, help="events per second")
    parser.add_argument("--size", type=int, default=2000, help="bytes of an event, about")


def _rows(args: argparse.Namespace) -> list[Row]:
    plan = Plan(1, args.rate, seconds=args.seconds, size=args.size, seed=args.seed)

    def row(server: str, stalled: int) -> Row:
        tested = SERVERS[server]

        async def run(bench: Bench) -> Outcome:
            return await _run(bench, tested, plan, args.viewers, stalled)

        return Row(f"{server} +{stalled} stalled", run, tested.ours, kafka=True)

    servers = ("tailrace", "aiohttp-loop", "websockets")
    return [row(server, stalled) for server in servers for stalled in (0, args.stalled)]


def _summary(medians: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = []
    for name, alone in medians.items():
        server, _, rest = name.partition(" +")
        pairs = [n for n in medians if n.startswith(f"{server} +") and n != name]
        if rest != "0 stalled" or not pairs:
            continue
        beside = medians[pairs[0]]
        stalled = int(pairs[0].split()[-2])
        ratio = beside["facts_p99_ms"] / alone["facts_p99_ms"]
        memory = (beside["rss_growth_bytes"] - alone["rss_growth_bytes"]) / stalled
        lines.append(
            f"{server}: p99 of the healthy {ratio:.2f} times that without stalled viewers; each "
            f"of these holds {beside['kernel_bytes/stalled'] / 1024:.0f} KB in the kernel and "
            f"about {memory / 1024:.0f} KB in the process"
        )
    return lines


SLOW = Scenario(
    "500 healthy viewers of a project with and without 50 who stopped reading, from Kafka",
    _arguments,
    _rows,
    ("facts_p50_ms", "facts_p99_ms", "facts_max_ms", "kernel_bytes/stalled", "rss_growth_bytes"),
    ("p99 with stalled viewers <= 1.1 times that without",),
    _summary,
)
