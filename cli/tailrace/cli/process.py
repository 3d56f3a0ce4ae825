"""A background process known by its pid file, never mistaken for another's.

A pid alone proves nothing: after a crash the kernel gives it to a stranger. So a process counts
as ours only while the end of its command line is the expected one, and it is signalled and
awaited through a pidfd, which cannot change its owner between the look and the signal.
"""

import os
import select
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["Daemon", "wait_any_ended", "wait_ended"]


class Daemon:
    """One background process that outlives its starter.

    Args:
        pid_file: Where its pid is kept; the folder exists.
        identity: The last arguments of its command line, unique to it on this machine.
    """

    def __init__(self, pid_file: Path, identity: Sequence[str]) -> None:
        self._pid_file = pid_file
        self._identity = b"".join(os.fsencode(argument) + b"\0" for argument in identity)
        self._child: int | None = None

    def __repr__(self) -> str:
        return f"<Daemon {self._pid_file} pid={self.pid}>"

    @property
    def pid(self) -> int | None:
        """The pid of the running process, or None: a stale pid file says nothing."""
        with self.opened() as opened:
            return opened and opened[0]

    def spawn(self, command: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        """Start it in a session of its own, its output going to the end of ``log``.

        The caller has seen that it does not run; ``command`` ends with the identity.
        """
        # posix_spawn, not Popen: the process is meant to outlive this one, and Popen objects
        # warn when they are dropped before their process has ended.
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._child = os.posix_spawn(
            command[0],
            list(command),
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        self._pid_file.write_text(f"{self._child}\n")

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to it, if it runs."""
        with self.opened() as opened:
            if opened:
                signal.pidfd_send_signal(opened[1], signum)

    @contextmanager
    def opened(self) -> Iterator[tuple[int, int] | None]:
        """Give its pid and a pidfd for it while the block runs, or None."""
        self._reap()
        pid = self._recorded_pid()
        pidfd = None if pid is None else _pidfd(pid)
        if pid is None or pidfd is None:
            yield None
            return
        try:
            yield (pid, pidfd) if self._is_ours(pid) else None
        finally:
            os.close(pidfd)

    def _reap(self) -> None:
        """Collect the process if it was started by this object and has ended."""
        if self._child is None:
            return
        try:
            running = os.waitpid(self._child, os.WNOHANG) == (0, 0)
        except ChildProcessError:
            running = False  # another object for the same process, or the interpreter, has
        if not running:
            self._child = None

    def _recorded_pid(self) -> int | None:
        try:
            return int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _is_ours(self, pid: int) -> bool:
        # A process that has just been spawned may show no command line for an instant.
        if pid == self._child:
            return True
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().endswith(self._identity)
        except (FileNotFoundError, ProcessLookupError):
            return False


def wait_ended(daemons: Iterable[Daemon], timeout_s: float) -> bool:
    """Wait until all have ended, for at most ``timeout_s``; whether they have."""
    deadline = time.monotonic() + timeout_s
    return all(wait_any_ended([daemon], deadline - time.monotonic()) for daemon in daemons)


def wait_any_ended(daemons: Iterable[Daemon], timeout_s: float) -> bool:
    """Wait until one of them has ended, for at most ``timeout_s``; whether one has."""
    with ExitStack() as stack:
        poll = select.poll()
        for daemon in daemons:
            opened = stack.enter_context(daemon.opened())
            if opened is None:
                return True
            poll.register(opened[1], select.POLLIN)
        return bool(poll.poll(max(timeout_s, 0) * 1000))


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
