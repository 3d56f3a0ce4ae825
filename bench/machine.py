"""Where a run took place: machine, kernel, versions, and which core did what."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.processes import rest, server_core

__all__ = ["describe"]

_PACKAGES = (
    "tailrace",
    "aiohttp",
    "aiokafka",
    "fastavro",
    "orjson",
    "uvloop",
    "websockets",
    "python-socketio",
)


def describe() -> dict[str, str]:
    """Return the head of a report."""
    return {
        "machine": f"{os.cpu_count()} cores, {_model()}, {_memory()}",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "cores": _cores(),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "node": _said("node", "--version"),
        "cc": _said("cc", "--version"),
    }


def _cores() -> str:
    core = server_core()
    if core is None:
        return "a single one for everything: server, Kafka, emitter and load generator compete"
    others = ", ".join(map(str, sorted(rest())))
    return f"server on {core} alone; Kafka, emitter and load generator on {others}"


def _model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _memory() -> str:
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _said(*command: str) -> str:
    program = shutil.which(command[0])
    if program is None:
        return "absent"
    told = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    return told.stdout.partition("\n")[0]
