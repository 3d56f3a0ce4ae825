"""Our background process is found, awaited and ended; a stranger with its pid is not touched."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.cli.process import Daemon, wait_any_ended, wait_ended

WAITS = "import sys; print('started', flush=True); sys.stdin.read()"
SLEEPS = "import signal, sys; print('started', flush=True); signal.pause()"


@pytest.fixture
def identity() -> str:
    return f"daemon-{uuid.uuid4()}"


@pytest.fixture
def daemon(tmp_path: Path, identity: str) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "pid", [identity])
    yield daemon
    daemon.signal(signal.SIGKILL)
    assert wait_ended([daemon], 10)


def spawn(daemon: Daemon, identity: str, log: Path, code: str = SLEEPS) -> None:
    command = [sys.executable, "-c", code, identity]
    daemon.spawn(command, env={"WORD": "given"}, log=log)


def test_spawned_process_runs_in_a_session_of_its_own(
    daemon: Daemon, identity: str, tmp_path: Path
) -> None:
    assert daemon.pid is None
    spawn(daemon, identity, tmp_path / "log")
    assert daemon.pid is not None
    assert os.getsid(daemon.pid) == daemon.pid
    assert repr(daemon.pid) in repr(daemon)


def test_output_and_environment_are_its_own(daemon: Daemon, identity: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    code = "import os, sys; print(os.environ['WORD'] + sys.stdin.read())"
    spawn(daemon, identity, log, code)
    assert wait_ended([daemon], 10)
    assert log.read_text() == "before\ngiven\n"


def test_another_object_finds_it_by_the_pid_file(
    daemon: Daemon, identity: str, tmp_path: Path
) -> None:
    # Its own words show that it has begun: until then it may show no command line.
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    spawn(daemon, identity, log)
    assert os.read(reader, 7) == b"started"
    os.close(reader)
    assert Daemon(tmp_path / "pid", [identity]).pid == daemon.pid


def test_ended_process_is_not_running_and_not_a_zombie(
    daemon: Daemon, identity: str, tmp_path: Path
) -> None:
    spawn(daemon, identity, tmp_path / "log")
    pid = daemon.pid
    assert pid is not None
    daemon.signal(signal.SIGKILL)
    assert wait_any_ended([daemon], 10)
    assert daemon.pid is None
    assert not Path(f"/proc/{pid}").exists()


def test_waiting_for_a_running_process_ends_in_time(
    daemon: Daemon, identity: str, tmp_path: Path
) -> None:
    spawn(daemon, identity, tmp_path / "log")
    assert not wait_any_ended([daemon], 0)
    assert not wait_ended([daemon], 0)


@pytest.mark.parametrize("text", ["", "not a pid", "999999999", "0", "-1"])
def test_useless_pid_file_means_not_running(daemon: Daemon, tmp_path: Path, text: str) -> None:
    (tmp_path / "pid").write_text(text)
    assert daemon.pid is None
    daemon.signal(signal.SIGKILL)
    assert wait_ended([daemon], 0)


def test_stranger_with_our_old_pid_is_left_alone(daemon: Daemon, tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", WAITS], stdin=subprocess.PIPE)
    (tmp_path / "pid").write_text(str(stranger.pid))
    assert daemon.pid is None
    daemon.signal(signal.SIGKILL)
    assert stranger.poll() is None
    stranger.communicate()
    assert stranger.returncode == 0
