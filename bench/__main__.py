"""Run a benchmark: ``python -m bench SCENARIO [options]``; see README.md beside this file."""

import argparse
import asyncio
import logging
import os
import resource
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import structlog

from bench.machine import describe
from bench.processes import rest
from bench.report import Report, Result, with_shares
from bench.scenario import Row, Scenario
from bench.scenarios import SCENARIOS
from bench.trial import Bench, Outcome
from tailrace.cli.broker import broker
from tailrace.schemas import TailraceError

_RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a scenario; 1 if ours lost, repeated or reordered anything."""
    args = _arguments(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    scenario = SCENARIOS[args.scenario]
    rows = _chosen(scenario.rows(args), args.only)
    _raise_limits()
    head = {"command": shlex.join(["python", "-m", "bench", *(argv or sys.argv[1:])]), **describe()}
    os.sched_setaffinity(0, rest())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tailrace-bench-")))
        kafka = None
        if any(row.kafka for row in rows):
            kafka = stack.enter_context(broker(folder / "kafka"))
        bench = Bench(kafka, folder, args.warm_up, args.settle, dict(args.set))
        outcomes = _repeat(bench, rows, args.repeat)
    return _conclude(args, scenario, head, rows, outcomes)


def _conclude(
    args: argparse.Namespace,
    scenario: Scenario,
    head: dict[str, str],
    rows: Sequence[Row],
    outcomes: dict[str, list[Outcome]],
) -> int:
    results = [Result(row.name, row.ours, outcomes[row.name]) for row in rows]
    results = with_shares(results, {row.name: row.floor for row in rows})
    report = Report(args.scenario, scenario, head, results)
    folder = args.out or _RESULTS / args.scenario
    report.save(folder)
    print(report.markdown())
    print(f"saved in {folder}")
    if args.json:
        args.json.write_text(report.json())
    failed = [result.name for result in results if result.ours and result.faults()]
    for name in failed:
        print(f"FAILED: {name} was not correct, so its numbers mean nothing", file=sys.stderr)
    return 1 if failed else 0


def _repeat(bench: Bench, rows: Sequence[Row], times: int) -> dict[str, list[Outcome]]:
    """Run the rows in turn, then all again: what the machine does meanwhile meets all alike."""
    outcomes: dict[str, list[Outcome]] = {row.name: [] for row in rows}
    for turn in range(1, times + 1):
        for row in rows:
            print(f"[{turn}/{times}] {row.name}", file=sys.stderr, flush=True)
            outcomes[row.name].append(asyncio.run(row.run(bench)))
    return outcomes


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    scenarios = parser.add_subparsers(dest="scenario", required=True, metavar="SCENARIO")
    for name, scenario in SCENARIOS.items():
        sub = scenarios.add_parser(name, help=scenario.about, description=scenario.about)
        scenario.arguments(sub)
        _add_common(sub, scenario.seconds)
    return parser.parse_args(argv)


def _add_common(parser: argparse.ArgumentParser, seconds: float) -> None:
    parser.add_argument("--seconds", type=float, default=seconds, help="fed, the warm-up included")
    parser.add_argument("--warm-up", type=float, default=2, help="first seconds, not counted")
    parser.add_argument("--settle", type=float, default=30, help="seconds to wait for the last one")
    parser.add_argument("--repeat", type=int, default=3, help="times that all rows are run in turn")
    parser.add_argument(
        "--only", default="", help="rows of this name, or that begin so; comma list"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder of the report (bench/results/SCENARIO)")
    parser.add_argument("--json", type=Path, help="also write the report in JSON here")
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of our edge, as its environment variable",
    )


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE")
    return name, value


def _chosen(rows: Sequence[Row], only: str) -> list[Row]:
    names, chosen = {row.name for row in rows}, set[str]()
    for name in map(str.strip, only.split(",")):
        chosen |= {name} if name in names else {n for n in names if n.startswith(name)}
    if not chosen:
        raise SystemExit(f"no row begins with {only}; there are: {'; '.join(r.name for r in rows)}")
    return [row for row in rows if row.name in chosen]


def _raise_limits() -> None:
    """Let every process open as many files as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TailraceError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
