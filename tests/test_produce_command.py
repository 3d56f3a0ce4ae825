"""``tailrace produce``: every good line arrives, every bad one is told by its number."""

import asyncio
import io
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from kafka_reading import read_topic
from memory_log import MemoryLog

from tailrace.cli import produce_command as module
from tailrace.cli.errors import BrokerUnreachableError, LinesError
from tailrace.cli.main import main
from tailrace.cli.produce_command import Line, lines_of, parse_line, produce
from tailrace.producers import Emitter, ProducerSettings
from tailrace.schemas import Event, ParameterError, decode


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryLog:
    made = MemoryLog()
    monkeypatch.setattr(module, "Emitter", lambda given: Emitter(given, connect=made.connect))
    return made


def send(log: MemoryLog, *lines: object) -> list[Event]:
    texts = [line if isinstance(line, bytes) else orjson.dumps(line) for line in lines]
    produce(io.BytesIO(b"\n".join(texts)), ProducerSettings())
    return [decode(record.value) for _, record in log.written]


def test_line_becomes_the_event_that_it_says(log: MemoryLog) -> None:
    job = {"id": "j", "status": "RUNNING", "progress": 0.5}
    first, second, third = send(
        log,
        {"project": "p", "type": "ingest.job.updated", "job": job, "error": "slow"},
        {"project": "p", "type": "my.type", "run": "r", "n": 1},
        {"project": "p", "type": "workflow.node.started", "kind": "agent", "run": "r", "x": 2},
    )
    assert (first.kind, first.run_id, first.status, first.error_message) == (
        "ingest",
        "j",
        "RUNNING",
        "slow",
    )
    assert orjson.loads(first.data) == {"job": job}
    assert (second.kind, second.run_id, second.data) == ("custom", "r", '{"n":1}')
    assert (third.kind, third.run_id, third.data) == ("agent", "r", '{"x":2}')


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"{", "line"),
        (b"[]", "line"),
        (b'"\\ud800"', "line"),
        (None, "line"),
        (b'{"type":"a.b"}', "project"),
        (b'{"project":"","type":"a.b"}', "project"),
        (b'{"project":7,"type":"a.b"}', "project"),
        (b'{"project":"p"}', "type"),
        (b'{"project":"p","type":"A B"}', "type"),
        (b'{"project":"p","type":"a.b","run":1}', "run"),
        (b'{"project":"p","type":"a.b","kind":"other"}', "kind"),
        (b'{"project":"p","type":"a.b","error":{}}', "error"),
    ],
)
def test_bad_line_names_the_member_at_fault(text: bytes | None, name: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse_line(text)
    assert caught.value.name == name


def test_least_line() -> None:
    assert parse_line(b'{"project":"p","type":"a.b"}') == Line("p", "a.b", "custom", None, None, {})


def test_bad_lines_are_told_and_no_good_one_is_lost(
    log: MemoryLog, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"project": "p", "type": "a.b"}
    with pytest.raises(LinesError) as caught:
        send(log, good, b"", b"{oops", good, {"project": "p"}, b"   ", good)
    assert (caught.value.bad, caught.value.sent) == (2, 3)
    assert len(log.written) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("line ")]
    assert [line.split(":")[:2] for line in told] == [["line 3", " line"], ["line 5", " type"]]


def test_line_without_an_end_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINE_MAX_BYTES", 10)
    stream = io.BytesIO(b"x" * 10 + b"\n" + b"y" * 9 + b"\n" + b"z" * 100)
    assert list(lines_of(stream)) == [None, b"y" * 9 + b"\n", None]


def test_reading_waits_for_kafka(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WINDOW", 10)
    held: list[int] = []

    class Reading(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            held.append(self.tell() // 29 - len(log.written))
            return super().readline(size)

    text = b'{"project":"p","type":"a.b"}\n' * 200
    assert len(text) == 200 * 29
    assert produce(Reading(text), ProducerSettings()) == 200
    assert max(held) <= 10


@pytest.mark.parametrize(
    "settings",
    [
        ProducerSettings(buffer_max_events=7),
        ProducerSettings(buffer_max_bytes=1 << 20, max_event_bytes=500_000),
    ],
)
def test_small_buffer_drops_and_conflates_nothing_of_a_file(
    log: MemoryLog, settings: ProducerSettings
) -> None:
    job = {"id": "j", "status": "RUNNING", "text": "x" * 200_000}
    line = orjson.dumps({"project": "p", "type": "ingest.job.updated", "job": job})
    assert produce(io.BytesIO(b"\n".join([line] * 40)), settings) == 40
    assert [decode(record.value).seq for _, record in log.written] == list(range(1, 41))


def test_away_broker_fails_and_keeps_what_was_read(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.01)
    log.up.clear()
    with pytest.raises(BrokerUnreachableError):
        send(log, {"project": "p", "type": "a.b", "n": 1})
    log.up.set()
    events = send(log, {"project": "p", "type": "a.b", "n": 2})
    assert [orjson.loads(event.data)["n"] for event in events] == [1, 2]


@pytest.mark.usefixtures("command_defaults")
def test_missing_file_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["produce", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("tailrace: Cannot read ")


@pytest.mark.usefixtures("command_defaults")
def test_wrong_setting_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_LINGER_MS", "-1")
    assert main(["produce", os.devnull]) == 1
    assert "TAILRACE_LINGER_MS" in capsys.readouterr().err


async def test_lines_from_a_pipe_reach_kafka_in_order(kafka: str, topic: str) -> None:
    lines = [
        orjson.dumps({"project": f"p{n % 3}", "type": "my.type", "run": "r", "n": n})
        for n in range(12_000)
    ]
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tailrace.cli", "produce"],
        input=b"\n".join([*lines, b"oops"]),
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka, "TAILRACE_TOPIC": topic},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 1
    assert b"line 12001: line: not JSON" in ended.stderr
    found: dict[str, list[int]] = {f"p{n}": [] for n in range(3)}
    for read in await read_topic(kafka, topic):
        found[read.event.project_id].append(orjson.loads(read.event.data)["n"])
    assert found == {f"p{n}": list(range(n, 12_000, 3)) for n in range(3)}
