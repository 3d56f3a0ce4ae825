"""A search index with documents in it."""

from datetime import UTC, datetime

import uuid_utils

from tailrace.services.documents import chunk
from tailrace.services.index import SearchIndex
from tailrace.services.jobs import new_job

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def put(index: SearchIndex, project: str, path: str, text: str) -> None:
    """Publish a document as an ingest job does."""
    job = new_job(str(uuid_utils.uuid7()), project, NOW, path=path)
    index.begin(job)
    for number, piece in enumerate(chunk(text)):
        index.add(job.id, number, piece)
    index.publish(job.id)
