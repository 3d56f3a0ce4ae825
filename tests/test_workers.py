"""Real processes: `Workers` forks, so each test runs one in a process of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tailrace.edge.workers import reserve

SECONDS = 20.0

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from tailrace.edge.workers import Workers

told = Path(sys.argv[1])

def serve(siblings):
    (told / f"{siblings.place}-{os.getpid()}").touch()
    {body}
    signal.sigwait({signal.SIGTERM})

Workers(int(sys.argv[2]), serve).run()
"""


class Running:
    """A parent with its workers, each of which leaves a file when it starts."""

    def __init__(self, process: subprocess.Popen[bytes], told: Path, log: Path) -> None:
        self.process = process
        self._told = told
        self._log = log

    def log(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self._log.read_text())

    def started(self, place: int | None = None) -> list[int]:
        """Return the process ids of the workers that were started, in one place or in all."""
        names = [path.name.split("-") for path in self._told.iterdir()]
        return [int(pid) for number, pid in names if place is None or int(number) == place]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end, "it did not come to pass"
            time.sleep(0.01)


@contextmanager
def workers(folder: Path, count: int, body: str = "pass") -> Iterator[Running]:
    told = folder / "told"
    told.mkdir()
    program = PROGRAM.replace("{body}", body)
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(told), str(count)], stdout=out
        )
    running = Running(process, told, log)
    try:
        yield running
    finally:
        process.kill()
        process.wait()
        for pid in running.started():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_workers_and_then_the_parent(
    tmp_path: Path, number: signal.Signals
) -> None:
    with workers(tmp_path, 3) as running:
        running.wait_for(lambda: len(running.started()) == 3)
        running.process.send_signal(number)
        assert running.process.wait(SECONDS) == 0
        assert not any(map(alive, running.started()))


def test_a_worker_that_dies_is_started_again_in_its_place(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as running:
        running.wait_for(lambda: len(running.started()) == 2)
        [first] = running.started(0)
        os.kill(first, signal.SIGKILL)
        running.wait_for(lambda: len(running.started(0)) == 2)
        assert len(running.started(1)) == 1
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(SECONDS) == 0


def test_workers_that_die_again_and_again_are_given_more_and_more_time(tmp_path: Path) -> None:
    with workers(tmp_path, 1, body="os._exit(3)") as running:
        running.wait_for(lambda: running.log().count("again_in_seconds") == 3)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(SECONDS) == 0
    assert re.findall(r"again_in_seconds=([0-9.]+)", running.log()) == ["0.5", "1.0", "2.0"]


def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    stubborn = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); time.sleep(600)"
    with workers(tmp_path, 2, body=stubborn) as running:
        running.wait_for(lambda: len(running.started()) == 2)
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(1.0)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(SECONDS) == -signal.SIGTERM
        running.wait_for(lambda: not any(map(alive, running.started())))


def test_workers_hear_that_their_parent_is_gone(tmp_path: Path) -> None:
    body = "os.read(siblings.parent, 1); os._exit(0)"
    with workers(tmp_path, 2, body=body) as running:
        running.wait_for(lambda: len(running.started()) == 2)
        running.process.kill()
        running.wait_for(lambda: not any(map(alive, running.started())))


def test_reserved_port_is_the_workers_and_nobody_elses() -> None:
    with reserve("127.0.0.1", 0) as reserved:
        address = reserved.getsockname()
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(address)
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(address)


def test_taken_port_cannot_be_reserved() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        reserve("127.0.0.1", taken.getsockname()[1])
