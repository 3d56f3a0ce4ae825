"""Users who start runs, watch them, drop out and resume: all of the product under locust."""

import argparse
import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.scenario import Row, Scenario
from bench.topic import topic_of_its_own
from bench.trial import Bench, Outcome
from tailrace.cli.children import child, ready
from tailrace.cli.ports import free_ports

__all__ = ["JOURNEYS"]

_LOCUSTFILE = Path(__file__).parent.parent / "locustfile.py"
_PACE_MS = 20
"""Pause of the ingest service after each chunk, so that a run can be left before its end."""


async def _run(bench: Bench, users: int, seconds: float) -> Outcome:
    assert bench.kafka is not None, "the row says so"
    async with topic_of_its_own(bench.kafka) as topic:
        return await _journeys(bench, topic, users, seconds)


async def _journeys(bench: Bench, topic: str, users: int, seconds: float) -> Outcome:
    """Start edge and services on a topic and let locust loose on them."""
    edge, services = free_ports(2)
    env = {
        **bench.settings,
        "KAFKA_BOOTSTRAP_SERVERS": str(bench.kafka),
        "TAILRACE_TOPIC": topic,
        "TAILRACE_DATA_DIR": str(bench.folder / topic),
        "TAILRACE_SPOOL_DIR": str(bench.folder / topic / "spool"),
        "TAILRACE_INGEST_PACE_MS": str(_PACE_MS),
        "TAILRACE_INGEST_WORKERS": "32",
    }
    async with AsyncExitStack() as stack:
        for name, port, path in (("edge", edge, "readyz"), ("services", services, "healthz")):
            log = bench.folder / f"{topic}-{name}.log"
            started = child([name, "--port", str(port)], env=env, log=log)
            process = await stack.enter_async_context(started)
            await ready(process, f"http://127.0.0.1:{port}/{path}", log)
        return _outcome(await _locust(bench, edge, services, users, seconds))


async def _locust(
    bench: Bench, edge: int, services: int, users: int, seconds: float
) -> list[dict[str, Any]]:
    """Run locust and return its statistics, one for each name."""
    report = bench.folder / "locust"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "--only-summary"),
        *("--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds:g}s"),
        *("--stop-timeout", "30", "--json-file", str(report), "--exit-code-on-error", "0"),
        *("--host", f"http://127.0.0.1:{services}", "--loglevel", "WARNING"),
        env={**os.environ, "TAILRACE_EDGE": f"ws://127.0.0.1:{edge}"},
        stdout=asyncio.subprocess.DEVNULL,
    )
    if await process.wait():
        raise SystemExit("locust failed: its last words are above")
    told: list[dict[str, Any]] = json.loads(report.with_suffix(".json").read_text())
    return told


def _outcome(told: list[dict[str, Any]]) -> Outcome:
    figures: dict[str, float] = {}
    faults: dict[str, int] = {}
    for each in told:
        name, requests = each["name"], each["num_requests"]
        figures |= {
            f"{name}: count": requests,
            f"{name}: mean_ms": each["total_response_time"] / max(1, requests),
            f"{name}: max_ms": each["max_response_time"],
        }
        if each["num_failures"]:
            faults[f"{name}: failed"] = each["num_failures"]
    cut_short = figures.get("start a run: count", 0) - figures.get("whole journey: count", 0)
    if cut_short or not figures:
        faults["without an end"] = int(cut_short) or 1
    return Outcome(figures, {}, faults)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=20)


def _rows(args: argparse.Namespace) -> list[Row]:
    async def run(bench: Bench) -> Outcome:
        return await _run(bench, args.users, args.seconds)

    return [Row("tailrace", run, ours=True, kafka=True)]


JOURNEYS = Scenario(
    "users start runs, watch them, drop out and resume, with locust",
    _arguments,
    _rows,
    tuple(
        f"{name}: {figure}"
        for name in ("start a run", "watch", "resume", "whole journey")
        for figure in ("count", "mean_ms", "max_ms")
    ),
    ("every journey sees each fact once and in order",),
    seconds=20,
)
