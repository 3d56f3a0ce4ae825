"""Whose records wait in which folder of the spool: a queue per cluster and topic, a lock per owner.

``<root>/<topic>/<cluster>/<begun>-<pid>-<token>/``: the cluster is known by its bootstrap servers,
because what waits must be found again before there is a connection. Another list of servers, were
it for the same cluster, is another queue: its records are sent by the next process that is given
that list, and every other one says that they are there.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

__all__ = ["LOCK", "SEGMENT_SUFFIX", "claim", "left_for_others", "queue_folder"]

LOCK = "lock"
SEGMENT_SUFFIX = ".segment"
_NAME_CHARS = 100


def queue_folder(root: Path, topic: str, servers: str) -> Path:
    """Return where the records for a topic of a cluster wait.

    Args:
        root: Shared by all of them.
        topic: Its name; nothing in it leads out of `root`.
        servers: Comma list of ``host:port``; its order, case and spaces make no difference.
    """
    listed = sorted({server.strip().lower() for server in servers.split(",")})
    digest = hashlib.sha256(",".join(listed).encode()).hexdigest()[:16]
    first = quote(listed[0], safe="")[:_NAME_CHARS]
    return root / quote(topic, safe="") / f"{first}-{digest}"


def claim(folder: Path) -> int | None:
    """Take the lock of a dead process's folder; None where its owner lives.

    Returns:
        The file that holds the lock, for as long as it is open.

    Raises:
        OSError: It is no such folder.
    """
    lock = os.open(folder / LOCK, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def left_for_others(queue: Path) -> Iterator[Path]:
    """Yield the other queues of the same topic in which a dead process has left records."""
    with suppress(OSError):
        for other in sorted(queue.parent.iterdir()):
            if other != queue and any(map(_is_left, other.iterdir())):
                yield other


def _is_left(folder: Path) -> bool:
    try:
        lock = claim(folder)
    except OSError:
        return False
    if lock is None:
        return False
    try:
        return any(folder.glob(f"*{SEGMENT_SUFFIX}"))
    finally:
        os.close(lock)
