"""One SQLite file, used from any thread, one transaction at a time."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Self

from tailrace.services.errors import StorageError

__all__ = ["Database"]

_VERSION = 1
_BUSY_SECONDS = 1.0


class Database:
    """A SQLite file in WAL mode. Everything blocks: call it from a worker thread.

    Args:
        path: The file; it and its folder are created, readable by their owner only.
        schema: Statements that create what is missing.
        exclusive: Keep every other process out until `close`, however this one ends.
        max_bytes: Bound of the file's size; a transaction that needs more fails.

    Raises:
        StorageError: It cannot be opened, another process holds it, or another version of
            Tailrace wrote it.
    """

    def __init__(
        self,
        path: Path,
        schema: str,
        *,
        exclusive: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        self._name = path.name
        self._lock = Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        except (OSError, sqlite3.Error) as exc:
            raise StorageError(str(path), str(exc)) from exc
        try:
            self._prepare(schema, exclusive=exclusive, max_bytes=max_bytes)
        except BaseException:
            self._connection.close()
            raise

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the file for the block: all of its statements take effect, or none.

        Raises:
            StorageError: A statement failed, or the database is closed.
        """
        with self._lock, self._mapped():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite rolls back by itself when it is full
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Wait for the transaction that runs and close the file. May be called again."""
        with self._lock:
            self._connection.close()

    def _prepare(self, schema: str, *, exclusive: bool, max_bytes: int | None) -> None:
        with self._mapped():
            if exclusive:  # before WAL: only then is the lock taken for good
                self._pragma("locking_mode=EXCLUSIVE")
            self._pragma("journal_mode=WAL")
            self._pragma("synchronous=NORMAL")
            if max_bytes is not None:
                self._pragma(f"max_page_count={max(1, max_bytes // self._pragma('page_size'))}")
        with self.transaction():
            version = self._pragma("user_version")
            if version not in {0, _VERSION}:
                raise StorageError(self._name, f"written by another version of Tailrace: {version}")
            for statement in schema.split(";"):
                self._connection.execute(statement)
            self._pragma(f"user_version={_VERSION}")

    def _pragma(self, text: str) -> int:
        row = self._connection.execute(f"PRAGMA {text}").fetchone()
        return row[0] if row is not None and isinstance(row[0], int) else 0

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            locked = "locked" in str(exc)
            reason = "another process uses it" if locked else str(exc)
            raise StorageError(self._name, reason) from exc
