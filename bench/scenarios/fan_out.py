"""Viewers who are there from first to last: what a delivery costs, and how long it takes."""

import argparse
from collections.abc import Mapping, Sequence

from bench.plan import Plan
from bench.scenario import Row, Scenario
from bench.servers import SERVERS, Server
from bench.trial import Bench, Outcome, trial

__all__ = ["BURST", "HOT", "KEYS", "LATENCY", "MANY", "WIDE", "row"]

_LATENCIES = ("facts_p50_ms", "facts_p99_ms", "facts_max_ms")
_COSTS = (
    "deliveries/s",
    "cpu_us/delivery",
    "server_cores",
    "generator_cores",
    "emitter_late_p99_ms",
    "emitter_written_ms",
)
_PEERS = ("node-ws", "websockets", "aiohttp-loop", "aiohttp-gather", "socketio")


async def fan_out(
    bench: Bench,
    server: Server,
    plan: Plan,
    viewers: int,
    *,
    from_kafka: bool,
    emitter: Sequence[str] = (),
) -> Outcome:
    """Connect the viewers, feed the server, wait until everybody has everything."""
    async with trial(bench, plan, server, from_kafka=from_kafka) as (run, source):
        await run.watched_by(run.group("viewers", viewers))
        await run.start_feed(source, emitter=emitter)
        await run.finish_feed()
        return await run.outcome(of=["viewers"])


def row(
    name: str,
    server: str,
    plan: Plan,
    viewers: int,
    *,
    from_kafka: bool,
    floor: str | None = None,
    emitter: Sequence[str] = (),
) -> Row:
    """Return the row of a fan-out run."""
    tested = SERVERS[server]

    async def run(bench: Bench) -> Outcome:
        return await fan_out(bench, tested, plan, viewers, from_kafka=from_kafka, emitter=emitter)

    return Row(name, run, tested.ours, from_kafka, floor)


# One hot project


def _hot_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--viewers", type=int, default=2000)
    parser.add_argument("--rates", default="50,100", help="events per second, comma list")
    parser.add_argument("--size", type=int, default=300, help="bytes of an event, about")


def _hot_rows(args: argparse.Namespace) -> list[Row]:
    rows = []
    for rate in map(float, args.rates.split(",")):
        plan = Plan(1, rate, seconds=args.seconds, size=args.size, seed=args.seed)
        floor = f"floor @{rate:g}"
        rows += [row(floor, "floor", plan, args.viewers, from_kafka=False)]
        rows += [
            row(f"{name} @{rate:g}", name, plan, args.viewers, from_kafka=False, floor=floor)
            for name in ("tailrace", "tailrace-plain", *_PEERS)
        ]
    return rows


HOT = Scenario(
    "one project, 2,000 viewers, 50 and 100 events/s, without Kafka: fan-out alone",
    _hot_arguments,
    _hot_rows,
    (*_COSTS, *_LATENCIES),
    ("50/s: >= .80 of the floor", "100/s: 200k deliveries/s, p50 <= 20 ms, p99 <= 60 ms"),
)


# Many projects


def _many_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--projects", type=int, default=500)
    parser.add_argument("--each", type=int, default=10, help="viewers of each project")
    parser.add_argument("--rate", type=float, default=4, help="events/s of each project")


def _many_plan(args: argparse.Namespace) -> Plan:
    rate = args.projects * args.rate
    return Plan(args.projects, rate, seconds=args.seconds, jobs=args.projects, seed=args.seed)


def _many_rows(args: argparse.Namespace) -> list[Row]:
    plan, viewers = _many_plan(args), args.projects * args.each
    rows = [row("floor fed", "floor", plan, viewers, from_kafka=False)]
    for name in ("tailrace", "node-ws", "websockets", "aiohttp-loop"):
        fed = row(f"{name} fed", name, plan, viewers, from_kafka=False, floor="floor fed")
        rows.append(fed)
    for name in ("tailrace", "websockets", "aiohttp-loop", "aiohttp-gather", "socketio"):
        whole = row(f"{name} kafka", name, plan, viewers, from_kafka=True, floor="floor fed")
        rows.append(whole)
    return rows


MANY = Scenario(
    "500 projects x 10 viewers, 4 events/s each: the whole path from Kafka, and fan-out alone",
    _many_arguments,
    _many_rows,
    (*_COSTS, *_LATENCIES),
    (
        "from Kafka, against the floor without Kafka: >= .65 (low-latency), >= .72 (economical)",
        "from Kafka: p50 <= 4 ms, p99 <= 15 ms",
    ),
)


# Wide


def _wide_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--projects", type=int, default=1000)
    parser.add_argument("--each", type=int, default=10, help="viewers of each project")
    parser.add_argument("--rate", type=float, default=5, help="updates/s of each viewer")


def _wide_rows(args: argparse.Namespace) -> list[Row]:
    plan, viewers = _many_plan(args), args.projects * args.each
    return [
        row("floor fed", "floor", plan, viewers, from_kafka=False),
        row("tailrace", "tailrace", plan, viewers, from_kafka=True, floor="floor fed"),
        row("aiohttp-loop", "aiohttp-loop", plan, viewers, from_kafka=True, floor="floor fed"),
    ]


WIDE = Scenario(
    "10,000 viewers of 1,000 projects, 5 updates/s each, from Kafka",
    _wide_arguments,
    _wide_rows,
    (*_COSTS, *_LATENCIES),
)


# A burst of progress


def _burst_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--viewers", type=int, default=100)
    parser.add_argument("--states", type=float, default=20_000, help="per second")
    parser.add_argument("--peer-states", type=float, default=1000, help="per second, for peers")
    parser.add_argument("--facts", type=float, default=20, help="per second")
    parser.add_argument("--jobs", type=int, default=200)


def _burst_rows(args: argparse.Namespace) -> list[Row]:
    def plan(projects: int, states: float) -> Plan:
        return Plan(projects, args.facts, states, args.seconds, jobs=args.jobs, seed=args.seed)

    def burst(server: str, projects: int, states: float) -> Row:
        title = f"{server} {states:g}/s on {projects}"
        return row(title, server, plan(projects, states), args.viewers, from_kafka=True)

    return [
        burst("tailrace", 1, args.states),
        burst("tailrace", 10, args.states),
        burst("tailrace", 1, args.peer_states),
        burst("aiohttp-loop", 1, args.peer_states),
    ]


def _burst_summary(medians: Mapping[str, Mapping[str, float]]) -> list[str]:
    ours = next((f for name, f in medians.items() if name.startswith("tailrace")), None)
    peer = next((f for name, f in medians.items() if name.startswith("aiohttp-loop")), None)
    if ours is None or peer is None:
        return []
    ratio = ours["cpu_us/delivery"] / peer["cpu_us/delivery"]
    return [f"CPU per logical delivery: {ratio:.3f} of aiohttp's `send_str` loop"]


BURST = Scenario(
    "20,000 states/s of 200 jobs and 20 facts/s, 100 viewers, on 1 and on 10 projects, from Kafka",
    _burst_arguments,
    _burst_rows,
    (*_COSTS, "frames", *_LATENCIES, "states_p50_ms", "states_p99_ms"),
    ("all logical deliveries, facts p99 <= 50 ms", "CPU per logical delivery <= 1/10 of aiohttp's"),
    _burst_summary,
)


# Kafkorama's shape


def _keys_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--viewers", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=512, help="bytes of an event, about")


def _keys_rows(args: argparse.Namespace) -> list[Row]:
    keys = max(1, args.viewers // 100)
    plan = Plan(keys, keys, seconds=args.seconds, size=args.size, jobs=keys, seed=args.seed)
    return [
        row(name, name, plan, args.viewers, from_kafka=True)
        for name in ("tailrace", "tailrace-plain", "aiohttp-loop")
    ]


KEYS = Scenario(
    "10 keys per 1,000 clients, 512 bytes, 1 message/s per key, resumable, from Kafka",
    _keys_arguments,
    _keys_rows,
    (*_COSTS, *_LATENCIES),
    seconds=20,
)


# From a service to a viewer


def _latency_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, default=200, help="events per second")
    parser.add_argument("--viewers", type=int, default=200, help="all of the same project")


def _latency_rows(args: argparse.Namespace) -> list[Row]:
    plan = Plan(1, args.rate, seconds=args.seconds, seed=args.seed)
    name = "tailrace-plain"
    return [row(name, name, plan, args.viewers, from_kafka=True, emitter=["--service"])]


LATENCY = Scenario(
    "from `emit_...()` in a service to a viewer's socket, through emitter, Kafka and edge",
    _latency_arguments,
    _latency_rows,
    ("deliveries", *_COSTS, "facts_p50_ms", "facts_p99_ms", "facts_p99.9_ms", "facts_max_ms"),
    seconds=20,
)
