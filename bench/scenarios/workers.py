"""One worker and several: how much more they carry, and how evenly they share."""

import argparse
from collections.abc import Mapping

from bench.plan import Plan
from bench.processes import child_cpu_seconds
from bench.scenario import Row, Scenario
from bench.servers import SERVERS
from bench.trial import Bench, Outcome, trial

__all__ = ["WORKERS"]


async def _run(bench: Bench, plan: Plan, viewers: int, workers: int) -> Outcome:
    """Serve the same load with so many workers, on all cores, beside all else."""
    server = SERVERS["tailrace"]._replace(spread=True)
    told = {**bench.settings, "TAILRACE_WORKERS": str(workers)}
    async with trial(bench._replace(settings=told), plan, server, from_kafka=True) as (run, source):
        pid = run.running.pid
        await run.watched_by(run.group("viewers", viewers))
        before = child_cpu_seconds(pid)
        await run.start_feed(source)
        await run.finish_feed()
        spent = [now - then for now, then in zip(child_cpu_seconds(pid), before, strict=True)]
        run.figures |= {
            "workers": workers,
            "busiest_share": max(spent, default=1) / sum(spent or [1]),
        }
        outcome = await run.outcome(of=["viewers"])
    missing = workers - len(spent) if workers > 1 else 0
    return outcome._replace(
        faults={**outcome.faults, "workers": missing} if missing else outcome.faults
    )


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--projects", type=int, default=5)
    parser.add_argument("--each", type=int, default=1000, help="viewers of each project")
    parser.add_argument("--rate", type=float, default=10, help="events/s of each project")
    parser.add_argument("--workers", type=int, default=2)


def _rows(args: argparse.Namespace) -> list[Row]:
    rate = args.projects * args.rate
    plan = Plan(args.projects, rate, seconds=args.seconds, jobs=args.projects, seed=args.seed)

    def row(workers: int) -> Row:
        async def run(bench: Bench) -> Outcome:
            return await _run(bench, plan, args.projects * args.each, workers)

        return Row(f"tailrace x{workers}", run, ours=True, kafka=True)

    return [row(1), row(args.workers)]


def _summary(medians: Mapping[str, Mapping[str, float]]) -> list[str]:
    if len(medians) < 2:  # noqa: PLR2004
        return []
    one, several = medians.values()
    times = several["workers"] * one["cpu_us/delivery"] / several["cpu_us/delivery"]
    line = (
        f"{several['workers']:.0f} workers with a core each carry {times:.2f} times what one does: "
        "their number x CPU per delivery of one / of several"
    )
    return [line]


WORKERS = Scenario(
    "the same load on one worker and on several, from Kafka",
    _arguments,
    _rows,
    ("deliveries/s", "cpu_us/delivery", "server_cores", "busiest_share", "facts_p99_ms"),
    ("2 workers: >= 1.9 times one",),
    _summary,
)
