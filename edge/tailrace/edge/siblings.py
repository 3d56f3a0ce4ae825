"""The workers of one edge, as they see each other: whoever is asked answers for all."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import aiohttp
import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Siblings", "merged", "not_ready"]

_ANSWER_SECONDS = 2.0
_WORST = ("tailrace_partition_lag_records", "tailrace_partition_lag_seconds")
"""Of which the workers' greatest value counts; of all others it is the sum."""


class Siblings(NamedTuple):
    """One worker's place among all."""

    folder: Path
    """Where each has a Unix socket to be asked by the others."""
    place: int
    total: int
    parent: int
    """A descriptor that turns readable when the parent is gone."""

    def socket(self, place: int) -> Path:
        """Return the socket of a worker."""
        return self.folder / f"worker-{place}.sock"

    async def ask(self, path: str) -> list[bytes | None]:
        """Return what each worker answers; None for one that does not within 2 s."""
        return list(
            await asyncio.gather(*(_ask(self.socket(place), path) for place in range(self.total)))
        )


async def _ask(socket: Path, path: str) -> bytes | None:
    timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
    connector = aiohttp.UnixConnector(path=str(socket))
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as http,
            http.get(f"http://worker{path}") as response,
        ):
            return await response.read()
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None


def not_ready(answers: Iterable[bytes | None]) -> str | None:
    """Return why not all workers are ready; None when they are.

    Args:
        answers: Of each worker's ``/readyz``.
    """
    for place, answer in enumerate(answers):
        if answer is None:
            return f"worker {place} does not answer"
        reason = orjson.loads(answer).get("reason")
        if reason is not None:
            return f"worker {place}: {reason}"
    return None


def merged(answers: Iterable[bytes | None]) -> bytes:
    """Return the metrics of all workers as those of one.

    Args:
        answers: Of each worker's ``/metrics``, Prometheus text.
    """
    texts = [answer.decode() for answer in answers if answer is not None]
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            families.setdefault(family.name, family)
            sums = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                before = sums.get(key, 0.0)
                worst = family.name in _WORST
                sums[key] = max(before, sample.value) if worst else before + sample.value
    workers = Metric("tailrace_workers", "Workers that answer.", "gauge")
    workers.add_sample("tailrace_workers", {}, len(texts))
    registry = CollectorRegistry()
    registry.register(_Families([*map(_rebuilt, families.values(), values.values()), workers]))
    return generate_latest(registry)


def _rebuilt(
    family: Metric, values: dict[tuple[str, tuple[tuple[str, str], ...]], float]
) -> Metric:
    metric = Metric(family.name, family.documentation, family.type)
    for (name, labels), value in values.items():
        metric.add_sample(name, dict(labels), value)
    return metric


class _Families:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
