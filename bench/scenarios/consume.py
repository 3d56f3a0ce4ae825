"""Records of projects that nobody watches: how many a core reads in a second."""

import argparse
import asyncio
import os
import signal
import time

from bench.plan import Plan
from bench.processes import cpu_seconds
from bench.scenario import Row, Scenario
from bench.servers import SERVERS, Server
from bench.trial import Bench, Outcome, trial

__all__ = ["CONSUME"]

_RATE = 1e7
"""So high that the emitter never waits."""
_LOOK_SECONDS = 0.25
_QUIET_LOOKS = 6
_QUIET_SHARE = 0.2
"""A server that uses less of a core has read everything."""


async def _idle_again(pid: int) -> float:
    """Wait until a process that was busy is no longer; return how long it was (seconds)."""
    begun = busy = time.monotonic()
    spent = cpu_seconds(pid)
    while time.monotonic() < busy + _LOOK_SECONDS * _QUIET_LOOKS:
        await asyncio.sleep(_LOOK_SECONDS)
        now = cpu_seconds(pid)
        if now - spent > _QUIET_SHARE * _LOOK_SECONDS:
            busy = time.monotonic()
        spent = now
    return busy - begun


async def _run(bench: Bench, server: Server, plan: Plan) -> Outcome:
    """Stop the server, fill the topic, let it go on, and take the CPU until it is idle again."""
    async with trial(bench, plan, server, from_kafka=True) as (run, source):
        pid = run.running.pid
        await run.begin()
        os.kill(pid, signal.SIGSTOP)
        try:
            await run.fill(source)
        finally:
            os.kill(pid, signal.SIGCONT)
        before = cpu_seconds(pid)
        took = await _idle_again(pid)
        spent = cpu_seconds(pid) - before
        run.figures |= {"records/s/core": plan.total / spent, "records/s": plan.total / took}
        outcome = await run.outcome(of=[])
        faults = {}
        if server.ours:
            read = outcome.figures.get("+tailrace_records_total", 0)
            decoded = outcome.figures.get("+tailrace_records_decoded_total", 0)
            faults = {"unread": plan.total - int(read), "decoded": int(decoded)}
        return outcome._replace(faults={name: count for name, count in faults.items() if count})


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=int, default=500_000)
    parser.add_argument("--projects", type=int, default=500)


def _rows(args: argparse.Namespace) -> list[Row]:
    each = max(1, args.records // args.projects)
    seconds = each * args.projects / _RATE
    plan = Plan(args.projects, _RATE, seconds=seconds, jobs=args.projects, seed=args.seed)

    def row(name: str) -> Row:
        async def run(bench: Bench) -> Outcome:
            return await _run(bench, SERVERS[name], plan)

        return Row(name, run, SERVERS[name].ours, kafka=True)

    return [row(name) for name in ("tailrace", "aiohttp-loop")]


CONSUME = Scenario(
    "records that nobody watches, from Kafka, as fast as they can be read",
    _arguments,
    _rows,
    ("records/s/core", "records/s", "+tailrace_records_total", "+tailrace_records_decoded_total"),
    (">= 500,000 records/s/core, 0 decoded",),
)
