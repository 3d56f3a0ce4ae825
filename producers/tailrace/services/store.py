"""The runs in SQLite: what has to survive a restart of their service."""

from collections.abc import Iterable
from pathlib import Path
from typing import Generic

from tailrace.services.database import Database
from tailrace.services.errors import NotFoundError
from tailrace.services.runs import RunT

__all__ = ["RunStore"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    ended INTEGER NOT NULL,
    body TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_of_project ON runs (project, id);
CREATE INDEX IF NOT EXISTS runs_by_end ON runs (ended, id)
"""


class RunStore(Database, Generic[RunT]):
    """Every run of one service by its last saved state. Methods block and raise `StorageError`.

    Args:
        path: The SQLite file. One process at a time: another one is refused.
        model: What a run of the service is.
        noun: What the service calls its runs.
        max_ended: How many ended runs are remembered over all projects; older ones are forgotten.
            Ids sort by age (UUIDv7).
    """

    def __init__(
        self, path: Path, model: type[RunT], *, noun: str = "run", max_ended: int = 10_000
    ) -> None:
        super().__init__(path, _SCHEMA, exclusive=True)
        self._model = model
        self._noun = noun
        self._max_ended = max_ended

    def save(self, run: RunT) -> None:
        """Keep the run's state instead of its earlier one."""
        with self.transaction() as transaction:
            transaction.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)",
                (run.id, run.project_id, run.status.is_end, run.model_dump_json()),
            )
            if run.status.is_end:
                transaction.execute(
                    "DELETE FROM runs WHERE id IN"
                    " (SELECT id FROM runs WHERE ended ORDER BY id DESC LIMIT -1 OFFSET ?)",
                    (self._max_ended,),
                )

    def get(self, project_id: str, run_id: str) -> RunT:
        """Return a run of the project.

        Raises:
            NotFoundError: The project has none of that id, or it was forgotten.
        """
        runs = self._query("WHERE project = ? AND id = ?", project_id, run_id)
        if not runs:
            raise NotFoundError(self._noun, run_id)
        return runs[0]

    def newest(self, project_id: str, limit: int) -> list[RunT]:
        """Return up to `limit` runs of the project, newest first."""
        return self._query("WHERE project = ? ORDER BY id DESC LIMIT ?", project_id, limit)

    def unfinished(self) -> list[RunT]:
        """Return the runs of all projects that were saved without an end, oldest first."""
        return self._query("WHERE NOT ended ORDER BY id")

    def _query(self, condition: str, *values: str | int) -> list[RunT]:
        with self.transaction() as transaction:
            rows: Iterable[tuple[str]] = transaction.execute(
                f"SELECT body FROM runs {condition}",  # noqa: S608 - the conditions above
                values,
            ).fetchall()
        return [self._model.model_validate_json(body) for (body,) in rows]
