"""What the kernel knows of a process: CPU, memory, the bytes in its sockets; and where it runs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = [
    "child_cpu_seconds",
    "cpu_seconds",
    "place",
    "queued_bytes",
    "rest",
    "rss_bytes",
    "server_core",
]

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CORES = sorted(os.sched_getaffinity(0))


def server_core() -> int | None:
    """Return the core of the server under test; None on a machine with a single one."""
    return _CORES[0] if len(_CORES) > 1 else None


def rest() -> set[int]:
    """Return the cores of all else: Kafka, emitter, load generator."""
    return set(_CORES[1:]) or set(_CORES)


def place(core: int | None) -> Callable[[], None]:
    """Return what puts a new process onto a core, or onto all, for `preexec_fn`."""
    return lambda: os.sched_setaffinity(0, _CORES if core is None else {core})


def _family(pid: int) -> Iterator[int]:
    yield pid
    for child in _children(pid):
        yield from _family(child)


def _children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, its threads and its living children."""
    total = 0
    for each in _family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICK


def child_cpu_seconds(pid: int) -> list[float]:
    """Return the CPU time of each living child of a process, with its own children."""
    return [cpu_seconds(child) for child in _children(pid)]


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process and its living children."""
    return sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in _family(pid)) * _PAGE


def queued_bytes(port: int) -> int:
    """Return what waits in the kernel's send queues of the sockets that a server accepted."""
    local = f":{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(int(row[4].partition(":")[0], 16) for row in rows if row[1].endswith(local))
