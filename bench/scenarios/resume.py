"""Everybody drops at once and comes back with a cursor: how long until all are live again."""

import argparse
import asyncio

from bench.load import INFLIGHT
from bench.plan import Plan
from bench.processes import cpu_seconds
from bench.scenario import Row, Scenario
from bench.servers import SERVERS, Server
from bench.trial import Bench, Outcome, Trial, growth, trial

__all__ = ["RESUME"]

_BEFORE_SECONDS = 3.0
"""Of feeding before they drop, so that every viewer has a cursor."""
_LIVE_SECONDS = 60.0


async def _storm(run: Trial) -> None:
    """Drop everybody and wait until the last one has an event that is due after its return."""
    pid = run.running.pid
    cpu, counted = cpu_seconds(pid), await asyncio.to_thread(run.running.metrics)
    await run.load.command("drop", "viewers", 0, INFLIGHT)
    told = await run.load.heard("live", _LIVE_SECONDS)
    run.figures["storm_cpu_s"] = cpu_seconds(pid) - cpu
    if told is not None:
        run.figures["all_live_s"] = told["seconds"]
    after = await asyncio.to_thread(run.running.metrics)
    run.figures |= {f"storm {name}": value for name, value in growth(counted, after).items()}


async def _run(bench: Bench, server: Server, plan: Plan, viewers: int) -> Outcome:
    async with trial(bench, plan, server, from_kafka=True) as (run, source):
        await run.watched_by(run.group("viewers", viewers, flags="resume"))
        await run.start_feed(source)
        await asyncio.sleep(_BEFORE_SECONDS)
        await _storm(run)
        await run.finish_feed()
        outcome = await run.outcome(of=["viewers"])
    lost = outcome.faults.get("lost", 0) + outcome.faults.get("missing", 0)
    faults = dict(outcome.faults)
    if "all_live_s" not in outcome.figures:
        faults["not all live again"] = 1
    return outcome._replace(figures={**outcome.figures, "facts_lost": lost}, faults=faults)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--viewers", type=int, default=5000)
    parser.add_argument("--projects", type=int, default=50)
    parser.add_argument("--rate", type=float, default=2, help="facts/s of each project")


def _rows(args: argparse.Namespace) -> list[Row]:
    rate = args.rate * args.projects
    plan = Plan(args.projects, rate, seconds=args.seconds, jobs=args.projects, seed=args.seed)

    def row(name: str) -> Row:
        async def run(bench: Bench) -> Outcome:
            return await _run(bench, SERVERS[name], plan, args.viewers)

        return Row(name, run, SERVERS[name].ours, kafka=True)

    return [row(name) for name in ("tailrace", "tailrace-plain", "aiohttp-loop", "socketio")]


RESUME = Scenario(
    "5,000 viewers drop at once and come back with their cursors, from Kafka",
    _arguments,
    _rows,
    (
        "all_live_s",
        "live_p50_ms",
        "live_p99_ms",
        "storm_cpu_s",
        "facts_lost",
        "storm +tailrace_replays_total",
        'storm +tailrace_resumes_total{outcome="journal"}',
        "storm +tailrace_kafka_fetches_total",
        "storm +tailrace_journal_passes_total",
    ),
    ("all live within 3 s on one core, 0 facts lost",),
    seconds=15,
)
