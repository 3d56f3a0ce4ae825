"""The searchable chunks of all documents, in SQLite FTS5.

A document is added chunk by chunk, out of sight, and shown by `publish` in one transaction that
also removes its predecessor. A search therefore sees the old or the new content, never both, and
what a job leaves behind when it does not get that far was never visible.
"""

import re
import sqlite3
from pathlib import Path
from typing import NamedTuple

from tailrace.services.database import Database
from tailrace.services.documents import Chunk
from tailrace.services.errors import NotFoundError
from tailrace.services.jobs import Job

__all__ = ["Document", "Passage", "SearchIndex"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    job_id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    source TEXT NOT NULL,
    title TEXT NOT NULL,
    published INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS one_document_per_source
    ON documents (project, source) WHERE published;
CREATE TABLE IF NOT EXISTS chunks (
    id INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL REFERENCES documents,
    number INTEGER NOT NULL,
    UNIQUE (job_id, number)
);
CREATE VIRTUAL TABLE IF NOT EXISTS passages
    USING fts5 (heading, text, tokenize = 'porter unicode61 remove_diacritics 2')
"""

_SEARCH = """
SELECT documents.source, documents.title, chunks.number, passages.heading, passages.text
FROM passages
JOIN chunks ON chunks.id = passages.rowid
JOIN documents ON documents.job_id = chunks.job_id
WHERE passages MATCH ? AND documents.project = ? AND documents.published
ORDER BY bm25(passages), passages.rowid
LIMIT ?
"""

_DOCUMENTS = """
SELECT documents.source, documents.title, count(chunks.id)
FROM documents LEFT JOIN chunks ON chunks.job_id = documents.job_id
WHERE documents.project = ? AND documents.published
GROUP BY documents.job_id ORDER BY documents.source LIMIT ?
"""

_TEXTS = """
SELECT passages.text
FROM documents
JOIN chunks ON chunks.job_id = documents.job_id
JOIN passages ON passages.rowid = chunks.id
WHERE documents.project = ? AND documents.source = ? AND documents.published
ORDER BY chunks.number LIMIT ?
"""

_WORD = re.compile(r"\w+")
_MAX_WORDS = 32


class Document(NamedTuple):
    """A document that searches see."""

    source: str
    """``file:<path>`` or ``text:<job id>``."""
    title: str
    chunks: int


class Passage(NamedTuple):
    """One chunk that a search found."""

    source: str
    """``file:<path>`` or ``text:<job id>``."""
    title: str
    number: int
    """Which chunk of its document, from 0."""
    heading: str
    text: str


class SearchIndex(Database):
    """The documents of all projects, strictly apart. Its methods block and raise `StorageError`.

    Args:
        path: The SQLite file.
        max_bytes: Bound of its size; when it is full, adding fails and searching goes on.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        super().__init__(path, _SCHEMA, max_bytes=max_bytes)

    def begin(self, job: Job) -> None:
        """Make a place for the document of a job; after it call `add`, then `publish` or `discard`.

        It stays out of sight until it is published.
        """
        with self.transaction() as transaction:
            transaction.execute(
                "INSERT INTO documents (job_id, project, source, title) VALUES (?, ?, ?, ?)",
                (job.id, job.project_id, job.source, job.title),
            )

    def add(self, job_id: str, number: int, chunk: Chunk) -> None:
        """Index one chunk of a document that was begun."""
        with self.transaction() as transaction:
            row = transaction.execute(
                "INSERT INTO chunks (job_id, number) VALUES (?, ?)",
                (job_id, number),
            ).lastrowid
            transaction.execute(
                "INSERT INTO passages (rowid, heading, text) VALUES (?, ?, ?)",
                (row, chunk.heading, chunk.text),
            )

    def publish(self, job_id: str) -> None:
        """Show the document of a job instead of the earlier one of its source.

        When a *later* job (ids sort by age, UUIDv7) of that source was faster, its document stays
        and this one is dropped: the same outcome as if both had been published in their order.
        """
        with self.transaction() as transaction:
            shown = transaction.execute(
                "SELECT old.job_id FROM documents AS new JOIN documents AS old"
                " ON old.project = new.project AND old.source = new.source AND old.published"
                " WHERE new.job_id = ?",
                (job_id,),
            ).fetchone()
            if shown is not None:
                _remove(transaction, min(shown[0], job_id))
            transaction.execute("UPDATE documents SET published = 1 WHERE job_id = ?", (job_id,))

    def discard(self, job_id: str) -> None:
        """Remove the document of a job, if there is one."""
        with self.transaction() as transaction:
            _remove(transaction, job_id)

    def discard_unpublished(self) -> None:
        """Remove what an earlier process began and never published."""
        with self.transaction() as transaction:
            rows = transaction.execute("SELECT job_id FROM documents WHERE NOT published")
            for (job_id,) in rows.fetchall():
                _remove(transaction, job_id)

    def is_published(self, job_id: str) -> bool:
        """Tell whether the document of a job is the one that searches see."""
        with self.transaction() as transaction:
            row = transaction.execute(
                "SELECT 1 FROM documents WHERE job_id = ? AND published",
                (job_id,),
            ).fetchone()
        return row is not None

    def search(self, project_id: str, query: str, limit: int = 10) -> list[Passage]:
        """Return up to `limit` chunks of the project that hold words of `query`, best first.

        Args:
            project_id: Only its documents are searched.
            query: Plain words, at most the first 32 count; there are no operators. Without a word
                nothing is found.
            limit: The most to return.
        """
        expression = _expression(query)
        if not expression:
            return []
        with self.transaction() as transaction:
            rows = transaction.execute(_SEARCH, (expression, project_id, limit)).fetchall()
        return [Passage(*row) for row in rows]

    def documents(self, project_id: str, limit: int) -> list[Document]:
        """Return up to `limit` documents of the project, by the name of their source."""
        with self.transaction() as transaction:
            rows = transaction.execute(_DOCUMENTS, (project_id, limit)).fetchall()
        return [Document(*row) for row in rows]

    def count(self, project_id: str) -> int:
        """Return how many documents of the project searches see."""
        with self.transaction() as transaction:
            row = transaction.execute(
                "SELECT count(*) FROM documents WHERE project = ? AND published", (project_id,)
            ).fetchone()
        return int(row[0])

    def read(self, project_id: str, source: str, max_chunks: int) -> str:
        """Return the text of a document's first chunks.

        Raises:
            NotFoundError: The project has no document of that source.
        """
        with self.transaction() as transaction:
            rows = transaction.execute(_TEXTS, (project_id, source, max_chunks)).fetchall()
        if not rows:
            raise NotFoundError("document", source)
        return "\n\n".join(text for (text,) in rows)


def _expression(query: str) -> str:
    """Return the FTS5 expression of some words: any of them, quoted, so that none is syntax."""
    return " OR ".join(f'"{word}"' for word in _WORD.findall(query)[:_MAX_WORDS])


def _remove(transaction: sqlite3.Connection, job_id: str) -> None:
    own = (job_id,)
    transaction.execute(
        "DELETE FROM passages WHERE rowid IN (SELECT id FROM chunks WHERE job_id = ?)",
        own,
    )
    transaction.execute("DELETE FROM chunks WHERE job_id = ?", own)
    transaction.execute("DELETE FROM documents WHERE job_id = ?", own)
