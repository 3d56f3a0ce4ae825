"""``tailrace tail``, mostly as a process of its own: lines, exit codes, and how it ends."""

import asyncio
import os
import pty
import signal
import sys
from asyncio.subprocess import PIPE, Process

import orjson
import pytest
from scripted_edge import (
    CHANNEL,
    WAIT_SECONDS,
    Scene,
    Side,
    begin,
    end,
    event,
    refuse,
    scripted_edge,
    stay,
)

from tailrace.cli.main import main
from tailrace.cli.tail_command import parse_run

JOB = ("p", "--run", "ingest/j1")


async def tail(*arguments: str, stdout: int = PIPE, **environment: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tailrace.cli", "tail", *arguments),
        stdout=stdout,
        stderr=PIPE,
        env={**os.environ, "NO_COLOR": "", "PYTHONUNBUFFERED": "", **environment},
    )


async def ended(process: Process) -> tuple[int | None, str, str]:
    """Return exit code, stdout and stderr."""
    async with asyncio.timeout(WAIT_SECONDS):
        out, err = await process.communicate()
    return process.returncode, (out or b"").decode(), err.decode()


async def test_each_event_is_one_line() -> None:
    async with scripted_edge(begin((1, 2), then=end)) as edge:
        code, out, err = await ended(await tail(*JOB, "--url", edge.url))
    assert (code, err) == (0, "")
    assert out == (
        "2026-11-23 10:15:01.123  ingest.job.updated           j1\n"
        "2026-11-23 10:15:02.123  ingest.job.updated           j1\n"
    )
    assert edge.targets == ["/api/stream/projects/p/ingest/j1"]


async def test_json_line_is_the_event_with_a_cursor_that_misses_nothing() -> None:
    async with scripted_edge(begin((1, 2), (3,), then=end)) as edge:
        code, out, _ = await ended(await tail(*JOB, "--json", TAILRACE_URL=edge.url))
    assert code == 0
    assert [orjson.loads(line) for line in out.splitlines()] == [
        {**event(1), "cursor": "c0"},
        {**event(2), "cursor": "c1"},
        {**event(3), "cursor": "c2"},
    ]


async def test_options_reach_the_edge() -> None:
    async with scripted_edge(begin(then=end), begin(then=end)) as edge:
        await ended(
            await tail("p", "--types", "ingest.*,a.b", "--from", "start", "--url", edge.url)
        )
        await ended(await tail("p", "--after", "c0", "--url", edge.url))
    assert edge.targets == [
        "/api/stream/projects/p?types=ingest.*,a.b&from=start",
        "/api/stream/projects/p?after=c0",
    ]


async def test_gap_is_one_line_on_stderr() -> None:
    async def gap(side: Side) -> None:
        await side.say("gap", ch=CHANNEL, prev="c1", cursor="c8", reason="retention")
        await side.close(1000)

    async with scripted_edge(begin((1,), then=gap)) as edge:
        code, out, err = await ended(await tail(*JOB, "--url", edge.url))
    assert (code, len(out.splitlines())) == (0, 1)
    assert err == "tailrace: gap (retention): nothing from c1 to c8\n"


async def test_interrupted_is_130_and_silent() -> None:
    async with scripted_edge(begin((1,), then=stay)) as edge:
        process = await tail(*JOB, "--url", edge.url)
        assert process.stdout is not None
        assert await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert await ended(process) == (130, "", "")


@pytest.mark.parametrize("more", [(), tuple(range(2, 50))], ids=["silence", "more events"])
async def test_reader_that_leaves_ends_it_quietly(more: tuple[int, ...]) -> None:
    async with scripted_edge(begin((1,), then=then_more(more))) as edge:
        read, write = os.pipe()
        process = await tail(*JOB, "--url", edge.url, stdout=write)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            await asyncio.to_thread(pipe.readline)
        assert await ended(process) == (0, "", "")


def then_more(numbers: tuple[int, ...]) -> Scene:
    async def scene(side: Side) -> None:
        for n in numbers:
            await side.batch(f"c{n - 1}", f"c{n}", n)
        await side.left()

    return scene


@pytest.mark.parametrize(
    ("no_colour", "coloured"), [("", True), ("1", False)], ids=["tty", "NO_COLOR"]
)
async def test_colour_is_for_a_terminal_that_wants_it(no_colour: str, coloured: bool) -> None:  # noqa: FBT001
    async def scene(side: Side) -> None:
        await side.subscribed("c0")
        events = [{"type": "ingest.job.failed", "job": {"id": "j1"}}]
        await side.say("batch", ch=CHANNEL, prev="c0", cursor="c1", skipped=0, events=events)
        await side.close(1000)

    async with scripted_edge(scene) as edge:
        ours, theirs = pty.openpty()
        process = await tail(*JOB, "--url", edge.url, stdout=theirs, NO_COLOR=no_colour)
        assert await ended(process) == (0, "", "")
        shown = os.read(ours, 4096)
        os.close(theirs)
        os.close(ours)
    assert (b"\x1b[31m" in shown) is coloured
    assert b"ingest.job.failed" in shown


async def test_refusal_is_1_and_one_line() -> None:
    async with scripted_edge(refuse(403)) as edge:
        code, out, err = await ended(await tail("p", "--url", edge.url))
    assert (code, out) == (1, "")
    assert err.startswith("tailrace: The edge refuses the stream (403")
    assert err.count("\n") == 1


def test_nobody_there_is_1_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tail", "p", "--url", "http://127.0.0.1:1"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tailrace: No edge answers at http://127.0.0.1:1 ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ["p", "--run", ""],
        ["p", "--run", "ingest/"],
        ["p", "--types", "A"],
        ["p", "--types", ""],
        ["p", "--after", "not a cursor"],
        ["p", "--after", "c", "--from", "start"],
        ["p", "--from", "end"],
        ["p", "--url", "nowhere"],
    ],
)
def test_bad_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tail", *arguments])
    assert caught.value.code == 2
    assert "tailrace tail: error: " in capsys.readouterr().err


def test_run_is_looked_for_in_each_kind_unless_it_names_one() -> None:
    assert parse_run("workflow/w/1") == (("workflow", "w/1"),)
    assert parse_run("w/1") == (("ingest", "w/1"), ("agent", "w/1"), ("workflow", "w/1"))


async def test_run_without_its_kind_is_followed_wherever_it_is() -> None:
    async with scripted_edge(*[begin((1,), then=end)] * 3) as edge:
        code, out, err = await ended(await tail("p", "--run", "j1", "--url", edge.url))
    assert (code, err, len(out.splitlines())) == (0, "", 3)
    assert sorted(edge.targets) == [
        "/api/stream/projects/p/agent-runs/j1",
        "/api/stream/projects/p/ingest/j1",
        "/api/stream/projects/p/workflows/runs/j1",
    ]
