"""Hundreds of unruly viewers on several edges while everything fails: did one lose anything?

    make soak ARGS="--minutes 5 --brokers 3"

Exit code 0: nobody, and every viewer saw what was written last. The recordings of a run
that failed stay in the folder that it names.
"""

import argparse
import asyncio
import logging
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Final, Literal, NamedTuple, cast

import structlog
from edge_harness import EdgeProcess

from tailrace.cli.local_kafka import Brokers, LocalKafka
from tailrace.cli.ports import free_ports
from tailrace.cli.topics import Target, create_topic
from verifier.dialects import Dialect
from verifier.expectation import Log, Watch
from verifier.faults import FAULTS, Stage, edge_ready
from verifier.judge import Verdict, faults, judge
from verifier.load import PROJECT_ENDED, RUN_ENDED, Load
from verifier.meters import Meters, metered
from verifier.plan import MOODS, Mood, Plan, ViewerPlan, write_plan
from verifier.recording import read_recording
from verifier.topic import Pace, read_topic, write_load

__all__ = ["Scenario", "Verified", "judge_folder", "plan_viewers", "recording_by", "run"]

_TOPIC: Final = "tailrace.soak"
_READY_S: Final = 60.0
_DRAIN_S: Final = 60.0
"""What viewers may take to catch up after the last record."""
_PADDING: Final = 10_000
_RECORD_BYTES: Final = 12_000
"""What a record of the load takes in a journal at most."""
_BUNDLE: Final = 4
_TOLD: Final = 40
_TOLD_OF_EACH: Final = 2
_TYPES: Final = ("*", "*", "ingest.*,agent.*,soak.*", "workflow.node.*,shop.*,soak.*")


class Scenario(NamedTuple):
    """What a soak does."""

    seed: int = 1
    seconds: float = 120
    """At least: until each of the faults has happened."""
    rate: float = 300
    """Records per second."""
    viewers: int = 200
    edges: int = 2
    brokers: Brokers = 1
    recorders: int = 2
    """Processes for the viewers."""
    dialects: Sequence[Dialect] = ("plain", "v1", "sse", "json")
    moods: Sequence[Mood] = MOODS
    starts: Sequence[str] = ("start", "live")
    faults: Sequence[str] = tuple(FAULTS)
    """In turn."""
    pause_s: float = 5
    """Between two faults."""
    journal_bytes: int = 1 << 22
    """Of an edge: little, so that who comes late or back is served from Kafka."""
    buffer_bytes: int = 1 << 14
    """Of a viewer's socket in an edge: little, so that slow ones are skipped."""

    @property
    def held(self) -> int:
        """How many of the last offsets of a partition an edge holds at least, with half of them
        still to come when a replay ends; each of 4 partitions has its share."""
        return self.journal_bytes // _RECORD_BYTES // 4 // 2


class Verified(NamedTuple):
    """What came out."""

    records: int
    verdicts: dict[str, Verdict]
    faults: Counter[str]
    """How often each thing went wrong on purpose."""
    meters: Meters

    @property
    def clean(self) -> bool:
        """Whether there is neither a violation nor a gap."""
        return not any(v.violations or v.gaps for v in self.verdicts.values())


def plan_viewers(scenario: Scenario, load: Load) -> list[ViewerPlan]:
    """Return viewers of every dialect and mood on channels of every sort."""
    rng = random.Random(scenario.seed)
    kinds = cycle((dialect, mood) for mood in scenario.moods for dialect in scenario.dialects)
    plans: list[ViewerPlan] = []
    for number, (dialect, mood) in zip(range(scenario.viewers), kinds, strict=False):
        watch = _watch(rng, load, scenario.starts)
        if mood == "stalling" and rng.random() < 0.5:  # it gets so much that its socket fills up
            watch = Watch(watch.project, start=watch.start, delivery="every")
        ends_with = PROJECT_ENDED if watch.kind is None else RUN_ENDED
        late = watch.start == "start" and rng.random() < 0.5
        joins_s = rng.uniform(0, scenario.seconds) if late else 0.0
        window = rng.choice([0, 20, 40, 100, 500])
        name = f"{number:04d}-{dialect}-{mood}"
        plans.append(ViewerPlan(name, watch, dialect, mood, ends_with, window, None, joins_s))
    return _bundled(plans)


def _watch(rng: random.Random, load: Load, starts: Sequence[str]) -> Watch:
    project = rng.choice(load.projects)
    start = cast("Literal['start', 'live']", rng.choice(starts))
    delivery = cast(
        "Literal['latest', 'every']", rng.choice(["latest", "latest", "latest", "every"])
    )
    if rng.random() < 0.4:
        return Watch(project, None, None, rng.choice(_TYPES), start, delivery)
    run = rng.choice([run for run in load.runs if run.kind != "custom"])
    types = rng.choice(["*", "*", "*", f"{run.kind}.*,soak.*"])
    return Watch(project, run.kind, run.run, types, start, delivery)


def _bundled(plans: list[ViewerPlan]) -> list[ViewerPlan]:
    """Let every third v1 viewer share its connection with others of its mood."""
    v1 = [plan for plan in plans if plan.dialect == "v1"][::3]
    bundle_of: dict[str, str] = {}
    taken: Counter[tuple[str, object]] = Counter()
    for plan in v1:
        channel = plan.watch._replace(start="live")  # one connection has a channel only once
        group = len([1 for b in bundle_of.values() if b.startswith(f"{plan.mood}-")]) // _BUNDLE
        bundle = f"{plan.mood}-{group}"
        if not taken[bundle, channel]:
            taken[bundle, channel] += 1
            bundle_of[plan.id] = bundle
    return [
        plan._replace(bundle=bundle_of[plan.id], joins_s=0.0) if plan.id in bundle_of else plan
        for plan in plans
    ]


async def run(scenario: Scenario, folder: Path) -> Verified:
    """Run a scenario and judge it.

    Args:
        scenario: What to do.
        folder: For Kafka's data and the recordings.
    """
    kafka = LocalKafka(folder / "kafka", port=0, brokers=scenario.brokers)
    servers = await asyncio.to_thread(kafka.up)
    try:
        await create_topic(Target(servers, _TOPIC), partitions=4)
        load = Load(scenario.seed, padding=_PADDING)
        async with AsyncExitStack() as stack:
            log = stack.enter_context((folder / "edges.log").open("wb"))
            edges = [
                EdgeProcess(
                    servers,
                    _TOPIC,
                    port,
                    drain_seconds=2,
                    journal_max_bytes=scenario.journal_bytes,
                    session_buffer_bytes=scenario.buffer_bytes,
                    stderr=log,
                )
                for port in free_ports(scenario.edges)
            ]
            for edge in edges:
                await stack.enter_async_context(edge)
            await asyncio.gather(*map(edge_ready, edges))
            stage = Stage(edges, kafka, _TOPIC, scenario.brokers, random.Random(scenario.seed))
            async with metered(edges) as meters:
                done = await _watched(scenario, stage, load, folder)
        records = await read_topic(servers, _TOPIC)
    finally:
        await asyncio.to_thread(kafka.down)
    return Verified(len(records), judge_folder(Log(records, scenario.held), folder), done, meters)


async def _watched(scenario: Scenario, stage: Stage, load: Load, folder: Path) -> Counter[str]:
    """Write and break while viewers record; what went wrong on purpose."""
    plans = plan_viewers(scenario, load)
    urls = [edge.url for edge in stage.edges]
    deadline = _READY_S + scenario.seconds + _DRAIN_S
    done: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        recorders = []
        for number, part in enumerate(_parts(plans, scenario.recorders)):
            plan = Plan(urls, scenario.seed, deadline, part)
            recorders.append(await stack.enter_async_context(recording_by(plan, folder, number)))
        over, enough = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(_break(scenario, stage, done, over, enough))
            pace = Pace(scenario.rate, scenario.seconds, enough)
            await write_load(stage.kafka.bootstrap_servers, stage.topic, load, pace)
            over.set()
        await asyncio.gather(*(recorder.wait() for recorder in recorders))
    return done


def _parts(plans: list[ViewerPlan], count: int) -> list[list[ViewerPlan]]:
    """Split viewers among processes; a bundle stays together."""
    parts: list[list[ViewerPlan]] = [[] for _ in range(count)]
    for plan in plans:
        number = _number_of(plan.bundle) if plan.bundle else int(plan.id[:4])
        parts[number % count].append(plan)
    return [part for part in parts if part]


def _number_of(text: str) -> int:
    """Return a number that is the same in every process."""
    return sum(text.encode())


async def _break(
    scenario: Scenario,
    stage: Stage,
    done: Counter[str],
    over: asyncio.Event,
    enough: asyncio.Event,
) -> None:
    """Let one thing after the other go wrong, with pauses in which all is well.

    Args:
        scenario: What, and when.
        stage: Where.
        done: What went wrong; counted into.
        over: Set when nothing further is to go wrong.
        enough: Set when each thing went wrong once.
    """
    if not scenario.faults:
        enough.set()
    for name in cycle(scenario.faults):
        with suppress(TimeoutError):
            async with asyncio.timeout(scenario.pause_s):
                await over.wait()
        if over.is_set():
            return
        await FAULTS[name](stage)
        done[name] += 1
        if len(done) == len(scenario.faults):
            enough.set()


@asynccontextmanager
async def recording_by(
    plan: Plan, folder: Path, number: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a recorder process; when the block begins, all its viewers have connected once."""
    file = folder / f"plan-{number}.json"
    write_plan(plan, file)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verifier.recorder", str(file), str(folder)),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None, "piped"
        async with asyncio.timeout(_READY_S):
            if await process.stdout.readline() != b"ready\n":
                raise SystemExit(f"recorder {number} ended before its viewers had connected")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def judge_folder(log: Log, folder: Path) -> dict[str, Verdict]:
    """Judge every recording in a folder."""
    verdicts = {}
    for file in sorted(folder.glob("*.ndjson")):
        with file.open("rb") as lines:
            recording = read_recording(lines)
        verdicts[recording.viewer] = judge(log.expectation(recording.watch), recording)
    return verdicts


def report(verified: Verified) -> str:
    """Return the outcome as lines for people."""
    verdicts = list(verified.verdicts.values())
    violations = [violation for verdict in verdicts for violation in verdict.violations]
    first = [v for verdict in verdicts for v in verdict.violations[:_TOLD_OF_EACH]]
    gaps = Counter(reason for verdict in verdicts for reason in verdict.gaps)
    meters = verified.meters
    lines = [
        *_table(verdicts),
        f"records: {verified.records}",
        f"replays: {meters.total('tailrace_replays_total')}",
        f"overruns: {meters.total('tailrace_overruns_total')}",
        f"went wrong on purpose: {dict(verified.faults) or 'nothing'}",
        f"gaps: {dict(gaps) or 'none'}",
        f"violations: {len(violations)}",
        *(f"  {count} x {fault}" for fault, count in faults(violations).most_common()),
        *(f"  {v.viewer}: {v.fault}: {v.detail}" for v in first[:_TOLD]),
    ]
    return "\n".join(lines)


def _table(verdicts: list[Verdict]) -> list[str]:
    """Return a row for all, and one for each dialect."""
    groups: dict[str, list[Verdict]] = {"all": verdicts}
    for verdict in verdicts:
        groups.setdefault(verdict.dialect, []).append(verdict)
    rows = [("", *_COLUMNS), *((name, *_sums(group)) for name, group in groups.items())]
    return ["".join(f"{cell:>12}" for cell in row) for row in rows]


_COLUMNS: Final = (
    *("viewers", "deliveries", "facts", "coalesced", "retried"),
    *("resumes", "gaps", "violations"),
)


def _sums(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    columns = zip(*map(_numbers, verdicts), strict=True)
    return (str(len(verdicts)), *(str(sum(column)) for column in columns))


def _numbers(v: Verdict) -> tuple[int, ...]:
    parts = (v.delivered, v.facts, v.skipped, v.retried, v.resumes)
    return (*parts, len(v.gaps), len(v.violations))


def _arguments() -> argparse.Namespace:
    usual = Scenario()
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--minutes", type=_minutes, default=usual.seconds / 60, help="60 at most")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--rate", type=float, default=usual.rate, help="records per second")
    parser.add_argument("--viewers", type=int, default=usual.viewers)
    parser.add_argument("--edges", type=int, default=usual.edges)
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=usual.brokers)
    parser.add_argument("--recorders", type=int, default=usual.recorders, help="viewers' processes")
    parser.add_argument("--dialects", default=",".join(usual.dialects))
    parser.add_argument("--moods", default=",".join(usual.moods))
    parser.add_argument("--starts", default=",".join(usual.starts))
    parser.add_argument("--faults", default=",".join(usual.faults), help="in turn; empty: none")
    parser.add_argument("--pause", type=float, default=usual.pause_s, help="seconds between faults")
    parser.add_argument("--journal", type=int, default=usual.journal_bytes, help="bytes of an edge")
    return parser.parse_args()


def _minutes(text: str) -> float:
    """Read a length that bounds what the judge must hold in memory."""
    if not 0 < (minutes := float(text)) <= _MAX_MINUTES:
        raise argparse.ArgumentTypeError(f"more than 0, up to {_MAX_MINUTES}")
    return minutes


_MAX_MINUTES: Final = 60


def _scenario(args: argparse.Namespace) -> Scenario:
    return Scenario(
        seed=args.seed,
        seconds=args.minutes * 60,
        rate=args.rate,
        viewers=args.viewers,
        edges=args.edges,
        brokers=args.brokers,
        recorders=args.recorders,
        dialects=args.dialects.split(","),
        moods=args.moods.split(","),
        starts=args.starts.split(","),
        faults=[name for name in args.faults.split(",") if name],
        pause_s=args.pause,
        journal_bytes=args.journal,
    )


def main() -> int:
    """Soak and tell."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # 40 lines a second without a broker
    folder = Path(tempfile.mkdtemp(prefix="tailrace-soak-"))
    verified = asyncio.run(run(_scenario(_arguments()), folder))
    sys.stdout.write(report(verified) + "\n")
    if verified.clean:
        shutil.rmtree(folder)
        return 0
    sys.stdout.write(f"recordings: {folder}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
