"""One run of one server: started, watched by viewers, fed, judged."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hdrh.histogram import HdrHistogram

from bench.load import FAULTS, Generator, Group, generator
from bench.plan import Plan
from bench.processes import cpu_seconds
from bench.servers import Running, Server, Source, serving
from bench.topic import topic_of_its_own

__all__ = ["Bench", "Outcome", "Trial", "growth", "hdr", "percentiles", "trial"]

_LEAD_SECONDS = 1.0
_LEAD_SECONDS_EACH = 30e-6
"""From telling the emitter to the first event, and for each event that it makes ready."""


class Bench(NamedTuple):
    """What all runs of a command share."""

    kafka: str | None
    """Bootstrap servers; None where no run reads Kafka."""
    folder: Path
    warm_up: float
    """Seconds at the start of each feed whose latencies do not count."""
    settle: float
    """Seconds to wait for what is still on its way after the last event."""
    settings: Mapping[str, str] = {}
    """Environment of our edge."""


class Outcome(NamedTuple):
    """What a run measured."""

    figures: Mapping[str, float]
    """Name with its unit -> number."""
    histograms: Mapping[str, Sequence[tuple[int, int]]]
    """Name -> (microseconds, count)."""
    faults: Mapping[str, int]
    """What must be 0, and is not."""


class Trial:
    """A run that is under way."""

    def __init__(self, bench: Bench, plan: Plan, running: Running, load: Generator) -> None:
        self.bench = bench
        self.plan = plan
        self.running = running
        self.load = load
        self.start_us = 0
        self.figures: dict[str, float] = {}
        self._emitter: asyncio.subprocess.Process | None = None
        self._cpu_from = cpu_seconds(running.pid)
        self._metrics_from: dict[str, float] = {}
        self._groups: dict[str, Group] = {}

    def group(self, name: str, viewers: int, **options: str) -> Group:
        """Return viewers spread evenly over the projects of the plan."""
        each, more = divmod(viewers, self.plan.projects)
        server = self.running.server
        urls = [
            (each + (project < more), project, server.url(self.running.port, project))
            for project in range(min(self.plan.projects, viewers))
        ]
        return Group(name, urls, server.dialect, **options)

    async def watched_by(self, group: Group, *, rate: float = 0) -> dict[str, Any]:
        """Connect a group and wait until it is served."""
        await self.add(group)
        return await self.load.open(group.name, rate=rate)

    async def add(self, group: Group) -> None:
        """Make a group that connects later."""
        self._groups[group.name] = group
        await self.load.add(group)

    async def measure(self, from_us: int, to_us: int = 1 << 60) -> None:
        """Count the latencies of events due in this time only (microseconds since the epoch)."""
        await self.load.command("measure", from_us, to_us)

    async def start_feed(
        self, source: Source, *, measured: bool = True, emitter: Sequence[str] = ()
    ) -> None:
        """Start emitting; returns when the first event is due.

        Args:
            source: Where to.
            measured: Whether all latencies after the warm-up count.
            emitter: Further arguments of the emitting process.
        """
        await self._start_emitter(source, emitter)
        lead = _LEAD_SECONDS + self.plan.total * _LEAD_SECONDS_EACH
        self.start_us = round((time.time() + lead) * 1e6)
        await self._release_emitter()
        if measured:
            await self.measure(self.start_us + round(self.bench.warm_up * 1e6))
        await self.begin()
        await asyncio.sleep(self.start_us / 1e6 - time.time())

    async def begin(self) -> None:
        """Count the server's CPU and metrics from now on."""
        self._metrics_from = await asyncio.to_thread(self.running.metrics)
        self._cpu_from = cpu_seconds(self.running.pid)

    async def fill(self, source: Source) -> None:
        """Emit everything at once, whether or not the server reads it."""
        await self._start_emitter(source, ())
        self.start_us = round(time.time() * 1e6)
        await self._release_emitter()
        await self._emitted()

    async def _start_emitter(self, source: Source, further: Sequence[str]) -> None:
        records = ["--records"] if self.running.server.ours else []
        where = (
            ["--kafka", source.servers, "--topic", source.topic]
            if source.topic
            else ["--feed", self.running.feed_port, *records]
        )
        self._emitter = await asyncio.create_subprocess_exec(
            *map(
                str, [sys.executable, "-m", "bench.emitter", self.plan.to_json(), *where, *further]
            ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._emitter.stdout is not None, "piped"
        if await self._emitter.stdout.readline() != b"ready\n":
            raise SystemExit("the emitting process did not start: its last words are above")

    async def _release_emitter(self) -> None:
        assert self._emitter is not None, "started"
        assert self._emitter.stdin is not None, "piped"
        self._emitter.stdin.write(f"{self.start_us}\n".encode())
        await self._emitter.stdin.drain()

    async def _emitted(self) -> None:
        """Wait until the emitter has ended and note how late it was."""
        assert self._emitter is not None, "started"
        told, _ = await self._emitter.communicate()
        self.running.require_alive()
        if self._emitter.returncode:
            raise SystemExit("the emitting process failed: its last words are above")
        self.figures |= {f"emitter_{name}": value for name, value in json.loads(told).items()}

    async def finish_feed(self) -> None:
        """Wait until everything is emitted and has come, or does not come any more."""
        await self._emitted()
        await self.complete()

    async def complete(self) -> None:
        """Wait until every viewer who reads has everything, or nothing more comes."""
        await self.load.command("expect", self.plan.facts_each, self.plan.events_each)
        await self.load.heard("complete", self.bench.settle)
        self.running.require_alive()

    def _uncounted(self, reports: Mapping[str, Any]) -> int:
        """Return by how much the events received and skipped differ from those emitted.

        Only where the dialect tells what was skipped, and for viewers who saw the whole feed.
        """
        whole = [
            reports[g.name]
            for g in self._groups.values()
            if g.dialect == "v1" and "idle" not in g.flags
        ]
        return sum(
            abs(r["viewers"] * self.plan.events_each - r["events"] - r["skipped"]) for r in whole
        )

    def kill_emitter(self) -> None:
        """End an emitter that is still running."""
        if self._emitter is not None and self._emitter.returncode is None:
            self._emitter.kill()

    async def outcome(self, *, of: Sequence[str]) -> Outcome:
        """End the load and return what was measured.

        Args:
            of: The groups whose latencies are the result; what all received is judged.
        """
        cpu = cpu_seconds(self.running.pid) - self._cpu_from
        metrics = await asyncio.to_thread(self.running.metrics)
        report = await self.load.end()
        groups = [report["groups"][name] for name in of]
        every = report["groups"].values()
        logical = sum(g["events"] + g["skipped"] for g in every)
        self.figures |= {
            "deliveries": logical,
            "frames": sum(g["frames"] for g in every),
            "returns": sum(g["returning"] for g in every),
        }
        if logical:
            took = max(1e-9, (max((g["last_us"] for g in groups), default=0) - self.start_us) / 1e6)
            self.figures |= {
                "deliveries/s": logical / took,
                "cpu_us/delivery": cpu * 1e6 / logical,
                "server_cores": cpu / took,
                "generator_cores": report["cpu_seconds"] / max(1e-9, report["wall_seconds"]),
            }
        self.figures |= growth(self._metrics_from, metrics)
        histograms = {
            name.removesuffix("_us"): merged
            for name in ("facts_us", "states_us", "connect_us", "live_us")
            if (merged := [(us, count) for g in groups for us, count in g[name]])
        }
        for name, counted in histograms.items():
            self.figures |= percentiles(name, counted)
        faults = {name: sum(g[name] for g in every) for name in FAULTS}
        faults["uncounted"] = self._uncounted(report["groups"])
        return Outcome(self.figures, histograms, {n: v for n, v in faults.items() if v})


def growth(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each counter of /metrics has grown, those that have."""
    grown = {f"+{name}": value - before.get(name, 0) for name, value in after.items()}
    return {name: value for name, value in grown.items() if "_total" in name and value}


def percentiles(name: str, counted: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Return the percentiles of a histogram as figures, in milliseconds."""
    histogram = hdr(counted)
    named = (("p50", 50), ("p99", 99), ("p99.9", 99.9), ("max", 100))
    return {
        f"{name}_{text}_ms": histogram.get_value_at_percentile(value) / 1000
        for text, value in named
    }


def hdr(counted: Sequence[tuple[int, int]]) -> HdrHistogram:
    """Return a histogram of (microseconds, count)."""
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    for us, count in counted:
        histogram.record_value(max(1, us), count)
    return histogram


@asynccontextmanager
async def trial(
    bench: Bench,
    plan: Plan,
    server: Server,
    *,
    from_kafka: bool,
) -> AsyncIterator[tuple[Trial, Source]]:
    """Start a server with a load generator beside it; all ends with the block."""
    log = bench.folder / f"{server.name}.log"
    async with AsyncExitStack() as stack:
        source = Source()
        if from_kafka:
            assert bench.kafka is not None, "asked for"
            topic = await stack.enter_async_context(topic_of_its_own(bench.kafka))
            source = Source(bench.kafka, topic)
        running = await stack.enter_async_context(
            serving(server, source, log=log, settings=bench.settings)
        )
        load = await stack.enter_async_context(generator())
        run = Trial(bench, plan, running, load)
        stack.callback(run.kill_emitter)
        yield run, source
