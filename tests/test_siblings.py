import asyncio
from pathlib import Path

import orjson
from aiohttp import web
from edge_harness import parse_metrics

from tailrace.edge.siblings import Siblings, merged, not_ready

READY = orjson.dumps({"status": "ready"})


def counter(value: int, more: str = "") -> bytes:
    return (
        "# HELP tailrace_frames_total Writes.\n# TYPE tailrace_frames_total counter\n"
        f"tailrace_frames_total {value}.0\n{more}"
    ).encode()


def lag(value: float) -> str:
    return (
        "# TYPE tailrace_partition_lag_seconds gauge\n"
        f'tailrace_partition_lag_seconds{{partition="0"}} {value}\n'
    )


def test_all_are_ready_when_each_is() -> None:
    assert not_ready([READY, READY]) is None


def test_one_that_is_not_ready_is_named() -> None:
    busy = orjson.dumps({"status": "not ready", "reason": "draining"})
    assert not_ready([READY, busy]) == "worker 1: draining"
    assert not_ready([None, READY]) == "worker 0 does not answer"


def test_counts_of_the_workers_are_added() -> None:
    metrics = parse_metrics(merged([counter(2), None, counter(40)]))
    assert metrics["tailrace_frames_total"] == 42
    assert metrics["tailrace_workers"] == 2


def test_of_lags_the_worst_counts() -> None:
    metrics = parse_metrics(merged([counter(1, lag(0.5)), counter(1, lag(3.0))]))
    assert metrics["tailrace_partition_lag_seconds{partition=0}"] == 3.0


def test_histograms_stay_histograms() -> None:
    text = (
        b"# TYPE tailrace_delivery_seconds histogram\n"
        b'tailrace_delivery_seconds_bucket{le="0.01"} 3.0\n'
        b'tailrace_delivery_seconds_bucket{le="+Inf"} 4.0\n'
        b"tailrace_delivery_seconds_count 4.0\ntailrace_delivery_seconds_sum 1.5\n"
    )
    metrics = parse_metrics(merged([text, text]))
    assert metrics["tailrace_delivery_seconds_bucket{le=0.01}"] == 6
    assert metrics["tailrace_delivery_seconds_bucket{le=+Inf}"] == 8
    assert metrics["tailrace_delivery_seconds_sum"] == 3.0


async def test_whoever_answers_is_asked_and_who_does_not_is_none(tmp_path: Path) -> None:
    async def place(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.path} of 1")

    siblings = Siblings(tmp_path, place=0, total=2, parent=-1)
    app = web.Application()
    app.router.add_get("/readyz", place)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(siblings.socket(1))).start()
    try:
        async with asyncio.timeout(10):
            assert await siblings.ask("/readyz") == [None, b"/readyz of 1"]
    finally:
        await runner.cleanup()
