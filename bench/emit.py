"""What emitting costs a service: its own thread's time, the process's CPU, memory at the bound.

Each part runs in a process of its own, after a warm-up that does not count, and the parts take
turns for `--repetitions` rounds. Calls are timed one by one on the caller's thread, the clock's
own 0.1 µs included. ``logging.info`` of the same job is the yardstick.

    python bench/emit.py [--repetitions 5] [--events 100000] [--parts busy,lone] [--json FILE]
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Final

from hdrh.histogram import HdrHistogram

from tailrace.cli.broker import broker
from tailrace.cli.topics import Target, create_topic
from tailrace.producers import Emitter, ProducerSettings
from tailrace.schemas import IngestJob

TOPIC: Final = "tailrace.bench"
NOBODY: Final = "127.0.0.1:1"
PROJECTS: Final = 50
SETTLE_S: Final = 60.0
MIB: Final = 1 << 20
Figures = dict[str, float]


def main() -> int:
    """Run the bench, or the part of it that the bench starts as a process."""
    args = _arguments()
    if args.part:
        sys.stdout.write(json.dumps(PARTS[args.part](args)))
        return 0
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder) / "kafka") as servers:
        asyncio.run(create_topic(Target(servers, TOPIC)))
        rounds = [
            (part, _run(part, args, servers, folder))
            for _ in range(args.repetitions)
            for part in args.parts
        ]
    report = _report(args, rounds)
    print(text_of(report))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5, help="rounds over all parts")
    parser.add_argument("--events", type=int, default=100_000, help="emitted at full speed")
    parser.add_argument("--seconds", type=float, default=3, help="of each paced part")
    parser.add_argument("--seed", type=int, default=1, help="of what is in the jobs")
    parser.add_argument(
        "--parts",
        type=lambda text: [part for part in text.split(",") if part],
        default=list(PARTS),
        help=f"of {','.join(PARTS)}",
    )
    parser.add_argument("--json", help="also write the report here")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return args


def _run(part: str, args: argparse.Namespace, servers: str, folder: str) -> Figures:
    command = [sys.executable, __file__, "--part", part, "--seed", str(args.seed)]
    command += ["--events", str(args.events), "--seconds", str(args.seconds)]
    with tempfile.TemporaryDirectory(dir=folder) as spool:
        environment = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": servers,
            "TAILRACE_TOPIC": TOPIC,
            "TAILRACE_SPOOL_DIR": spool,
        }
        ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    figures: Figures = json.loads(ended.stdout.splitlines()[-1])
    return figures


# What is emitted.


def jobs(seed: int) -> Iterator[tuple[str, IngestJob]]:
    """Return jobs of some 400 bytes, each with its project; built before the clock starts."""
    chance = random.Random(seed)
    made = [
        IngestJob.model_validate(
            {
                "id": f"job-{number}",
                "project_id": f"project-{number % PROJECTS}",
                "status": "RUNNING",
                "stage": chance.choice(["reading", "splitting", "embedding"]),
                "progress": chance.random(),
                "file": f"/data/{number}/report.pdf",
                "chunks_done": chance.randrange(1000),
                "note": "x" * 200,
            }
        )
        for number in range(500)
    ]
    return cycle([(str(job.project_id), job) for job in made])


class Timed:
    """Calls, timed one by one."""

    def __init__(self, call: Callable[[str, IngestJob], object], seed: int) -> None:
        self._call = call
        self._jobs = jobs(seed)
        self._histogram = HdrHistogram(1, 10_000_000_000, 3)

    def calls(self, number: int) -> None:
        """Make so many, back to back."""
        clock = time.perf_counter_ns
        for _ in range(number):
            project, job = next(self._jobs)
            begun = clock()
            self._call(project, job)
            self._histogram.record_value(clock() - begun)

    def paced(self, seconds: float, *, pause: float, number: int = 1) -> None:
        """Make `number` back to back, every `pause` seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.calls(number)
            time.sleep(pause)

    def warm(self) -> None:
        """Forget what was timed so far."""
        self._histogram.reset()

    def figures(self) -> Figures:
        """Return the distribution, in µs."""
        at = self._histogram.get_value_at_percentile
        return {f"p{name} µs": at(name) / 1000 for name in (50, 99, 99.9)}


def updated(emitter: Emitter) -> Callable[[str, IngestJob], object]:
    """Return what emits a state."""
    return lambda project, job: emitter.emit("ingest", project, "ingest.job.updated", job)


def completed(emitter: Emitter) -> Callable[[str, IngestJob], object]:
    """Return what emits a fact."""
    return lambda project, job: emitter.emit("ingest", project, "ingest.job.completed", job)


# The parts.


def busy(args: argparse.Namespace) -> Figures:
    """20 calls back to back every 2 ms: the background sends all the while."""
    return _paced(args, pause=0.002, number=20)


def steady(args: argparse.Namespace) -> Figures:
    """A call every 2 ms, as from one busy job."""
    return _paced(args, pause=0.002)


def lone(args: argparse.Namespace) -> Figures:
    """A call every 50 ms, which finds the background asleep or nearly so."""
    return _paced(args, pause=0.05)


def _paced(args: argparse.Namespace, *, pause: float, number: int = 1) -> Figures:
    emitter = Emitter(ProducerSettings(source="bench"))
    timed = Timed(updated(emitter), args.seed)
    timed.calls(2000)
    assert emitter.flush(SETTLE_S)
    timed.warm()
    timed.paced(args.seconds, pause=pause, number=number)
    assert emitter.close(SETTLE_S)
    return timed.figures()


def speed(args: argparse.Namespace) -> Figures:
    """As fast as Kafka acknowledges; the CPU is that of the whole process, emitting included."""
    emitter = Emitter(ProducerSettings(source="bench"))
    Timed(completed(emitter), args.seed).calls(2000)
    assert emitter.flush(SETTLE_S)
    cpu, wall = time.process_time(), time.perf_counter()
    emits, made = completed(emitter), jobs(args.seed)
    for number in range(args.events):
        emits(*next(made))
        while number % 1000 == 0 and emitter.stats().waiting > 20_000:  # noqa: PLR2004 - a fifth of the bound
            time.sleep(0.005)
    assert emitter.flush(SETTLE_S)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    stats = emitter.stats()
    assert stats.acknowledged == stats.emitted
    assert emitter.close(SETTLE_S)
    return {"events/s": args.events / wall, "events/s per core": args.events / cpu}


def idle(args: argparse.Namespace) -> Figures:
    """CPU of a process that has emitted, is connected, and emits nothing."""
    emitter = Emitter(ProducerSettings(source="bench"))
    Timed(updated(emitter), args.seed).calls(100)
    assert emitter.flush(SETTLE_S)
    time.sleep(1)
    cpu = time.process_time()
    time.sleep(args.seconds)
    figures = {"CPU %": 100 * (time.process_time() - cpu) / args.seconds}
    assert emitter.close(SETTLE_S)
    return figures


def absent(args: argparse.Namespace) -> Figures:
    """States without a broker, to three times the bound: they are conflated and dropped."""
    return _without_broker(args, updated)


def spooled(args: argparse.Namespace) -> Figures:
    """Facts without a broker, to three times the bound: the oldest go to the spool."""
    return _without_broker(args, completed)


def _without_broker(
    args: argparse.Namespace, emits: Callable[[Emitter], Callable[[str, IngestJob], object]]
) -> Figures:
    settings = ProducerSettings(source="bench", bootstrap_servers=NOBODY)
    emitter = Emitter(settings)
    timed = Timed(emits(emitter), args.seed)
    timed.calls(100)
    before = _resident()
    timed.calls(settings.buffer_max_events)
    timed.warm()
    timed.calls(2 * settings.buffer_max_events)
    held = {"MiB at the bound": (_resident() - before) / MIB}
    emitter.close(0)
    return timed.figures() | held


def log_file(args: argparse.Namespace) -> Figures:
    """The yardstick of `busy`: ``logging.info`` of the same job to a file on disk."""
    with tempfile.TemporaryDirectory() as folder:
        return _log(args, Path(folder) / "log", pause=0.002, number=20)


def log_null(args: argparse.Namespace) -> Figures:
    """The yardstick of `busy` without a disk: to /dev/null."""
    return _log(args, Path("/dev/null"), pause=0.002, number=20)


def log_lone(args: argparse.Namespace) -> Figures:
    """The yardstick of `lone`: to /dev/null, from caches that are as cold."""
    return _log(args, Path("/dev/null"), pause=0.05)


def _log(args: argparse.Namespace, path: Path, *, pause: float, number: int = 1) -> Figures:
    logger = logging.getLogger("bench")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
    timed = Timed(lambda project, job: logger.info("%s %s", project, job), args.seed)
    timed.calls(2000)
    timed.warm()
    timed.paced(args.seconds, pause=pause, number=number)
    handler.close()
    return timed.figures()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


PARTS: Final[dict[str, Callable[[argparse.Namespace], Figures]]] = {
    "busy": busy,
    "steady": steady,
    "lone": lone,
    "speed": speed,
    "idle": idle,
    "absent": absent,
    "spooled": spooled,
    "log_file": log_file,
    "log_null": log_null,
    "log_lone": log_lone,
}


# The report.


def _report(args: argparse.Namespace, rounds: list[tuple[str, Figures]]) -> dict[str, object]:
    return {
        "command": f"bench/emit.py --repetitions {args.repetitions} --events {args.events} "
        f"--seconds {args.seconds:g} --seed {args.seed} --parts {','.join(args.parts)}",
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0],
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("tailrace", "aiokafka", "pydantic", "fastavro")},
        },
        "parts": {
            part: _summary([figures for name, figures in rounds if name == part])
            for part in args.parts
        },
    }


def _summary(rounds: list[Figures]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "median": statistics.median(figures[name] for figures in rounds),
            "least": min(figures[name] for figures in rounds),
            "most": max(figures[name] for figures in rounds),
        }
        for name in rounds[0]
    }


def text_of(report: dict[str, object]) -> str:
    """Return the report as lines for people: median of the rounds, least and most."""
    parts = report["parts"]
    assert isinstance(parts, dict), "made above"
    lines = [f"{report['command']} on {report['machine']}, load {report['load']:.1f}"]
    for part, figures in parts.items():
        told = [
            f"{name} {value['median']:,.1f} ({value['least']:,.1f} to {value['most']:,.1f})"
            for name, value in figures.items()
        ]
        lines.append(f"{part:9} " + " · ".join(told))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
