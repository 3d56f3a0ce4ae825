"""Many who come, and many who come and go, while others are served."""

import argparse
import asyncio
import time

from bench.plan import Plan
from bench.processes import cpu_seconds
from bench.scenario import Row, Scenario
from bench.servers import SERVERS, Server
from bench.trial import Bench, Outcome, trial

__all__ = ["CHURN", "CONNECT"]


async def _connect(
    bench: Bench, server: Server, plan: Plan, residents: int, arrivals: int
) -> Outcome:
    """Serve residents; only what is due while the others arrive counts."""
    async with trial(bench, plan, server, from_kafka=True) as (run, source):
        await run.watched_by(run.group("residents", residents))
        await run.start_feed(source, measured=False)
        await asyncio.sleep(bench.warm_up)
        arriving = run.group("arrivals", arrivals, flags="idle")
        quiet = plan.projects
        urls = [(n, quiet, server.url(run.running.port, quiet)) for n, _, _ in arriving.urls]
        await run.add(arriving._replace(urls=urls))
        begun, cpu = round(time.time() * 1e6), cpu_seconds(run.running.pid)
        await run.measure(begun)
        told = await run.load.open("arrivals")
        await run.measure(begun, round(time.time() * 1e6))
        spent = cpu_seconds(run.running.pid) - cpu
        run.figures |= {
            "connects/s": arrivals / told["seconds"],
            "connects/s/core": arrivals / spent,
            "storm_s": told["seconds"],
        }
        await run.finish_feed()
        return await run.outcome(of=["residents"])


def _connect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--residents", type=int, default=200)
    parser.add_argument("--arrivals", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=50, help="events per second")


def _connect_rows(args: argparse.Namespace) -> list[Row]:
    plan = Plan(1, args.rate, seconds=args.seconds, seed=args.seed)

    def row(name: str) -> Row:
        async def run(bench: Bench) -> Outcome:
            return await _connect(bench, SERVERS[name], plan, args.residents, args.arrivals)

        return Row(name, run, SERVERS[name].ours, kafka=True)

    return [row(name) for name in ("tailrace", "aiohttp-loop", "websockets")]


CONNECT = Scenario(
    "10,000 viewers connect as fast as they can while 200 are served, from Kafka",
    _connect_arguments,
    _connect_rows,
    ("connects/s", "connects/s/core", "storm_s", "facts_p50_ms", "facts_p99_ms", "facts_max_ms"),
    (">= 3,500/s/core; p99 of the 200 meanwhile <= 30 ms",),
    seconds=15,
)


async def _churn(bench: Bench, server: Server, plan: Plan, viewers: int, rate: float) -> Outcome:
    """Reset connections at random all the time; each comes back with its cursor."""
    async with trial(bench, plan, server, from_kafka=True) as (run, source):
        await run.watched_by(run.group("viewers", viewers, flags="resume"))
        await run.start_feed(source)
        await asyncio.sleep(bench.warm_up)
        await run.load.command("churn", "viewers", rate)
        await asyncio.sleep(plan.seconds - bench.warm_up - 1)
        await run.load.command("churn", "viewers", 0)
        await run.finish_feed()
        return await run.outcome(of=["viewers"])


def _churn_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--viewers", type=int, default=2000)
    parser.add_argument("--churn", type=float, default=200, help="connections reset per second")
    parser.add_argument("--projects", type=int, default=200)
    parser.add_argument("--rate", type=float, default=4, help="facts/s of each project")


def _churn_rows(args: argparse.Namespace) -> list[Row]:
    rate = args.rate * args.projects
    plan = Plan(args.projects, rate, seconds=args.seconds, jobs=args.projects, seed=args.seed)

    def row(name: str) -> Row:
        async def run(bench: Bench) -> Outcome:
            return await _churn(bench, SERVERS[name], plan, args.viewers, args.churn)

        return Row(name, run, SERVERS[name].ours, kafka=True)

    return [row(name) for name in ("tailrace", "tailrace-plain", "aiohttp-loop")]


CHURN = Scenario(
    "2,000 viewers of whom 200 a second are cut off and come back with their cursors, from Kafka",
    _churn_arguments,
    _churn_rows,
    ("cpu_us/delivery", "server_cores", "facts_p50_ms", "facts_p99_ms", "live_p50_ms", "returns"),
    ("0 facts lost",),
)
