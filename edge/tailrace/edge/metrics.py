"""The node's numbers in the Prometheus text format. Counting is plain integers on the hot path."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from tailrace.edge.consumer import Lag
from tailrace.edge.hub import Hub
from tailrace.edge.protocol import CloseCode

__all__ = ["DeliveryHistogram", "Metrics"]

_Label = TypeVar("_Label", str, int)
_CLOSE_CODES = frozenset({*range(1000, 1016), *CloseCode})
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class DeliveryHistogram:
    """Seconds from emit to the viewers' sockets: one observation per event, weighted by viewers."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float, viewers: int) -> None:
        """Count `viewers` deliveries that took `seconds`."""
        self._counts[bisect_left(_BOUNDS, seconds)] += viewers
        self._sum += seconds * viewers

    def metric(self) -> HistogramMetricFamily:
        """Return the histogram with cumulative buckets."""
        total = 0
        buckets = []
        for bound, count in zip((*map(str, _BOUNDS), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(
            "tailrace_delivery_seconds", "Emit to socket.", buckets=buckets, sum_value=self._sum
        )


class Metrics:
    """Everything that a node counts beside its hub."""

    def __init__(self) -> None:
        self.connections: Counter[str] = Counter()
        """Open connections by transport."""
        self.closes: Counter[str] = Counter()
        """Closed connections by close code; ``other`` for codes that viewers made up."""
        self.skipped: Counter[str] = Counter()
        """Records that could not be delivered, by reason."""
        self.resumes: Counter[str] = Counter()
        """Viewers who came with a cursor, by what served them."""
        self.gaps: Counter[str] = Counter()
        """Ranges that could not be delivered, once per viewer, by reason."""
        self.replays: Counter[int] = Counter()
        """Scans of the log, by partition."""
        self.delivery = DeliveryHistogram()

    def count_close(self, code: int) -> None:
        """Count a closed connection; a viewer cannot add a time series of its own."""
        self.closes[str(code) if code in _CLOSE_CODES else "other"] += 1

    def render(self, *, hub: Hub, lags: Mapping[int, Lag]) -> bytes:
        """Return all metrics as Prometheus text."""
        registry = CollectorRegistry()
        registry.register(_Collected([*self._viewers(hub), *self._log(hub, lags)]))
        return generate_latest(registry)

    def _viewers(self, hub: Hub) -> Iterator[Metric]:
        yield _gauges("tailrace_connections", "Open connections.", "transport", self.connections)
        yield GaugeMetricFamily("tailrace_channels", "Channels watched.", len(hub))
        yield GaugeMetricFamily(
            "tailrace_lagging_sessions", "Subscriptions that are behind.", hub.lagging()
        )
        counts = hub.counts
        yield _counter("tailrace_deliveries", "Events x viewers.", counts.deliveries)
        yield _counter("tailrace_frames", "Writes into viewers' sockets.", counts.frames)
        yield _counter("tailrace_overruns", "Viewers skipped: a full socket.", counts.overrun)
        yield self.delivery.metric()
        yield _counters("tailrace_resumes", "Viewers with a cursor.", "outcome", self.resumes)
        yield _counters("tailrace_gaps", "Ranges not deliverable.", "reason", self.gaps)
        yield _counters("tailrace_closes", "Connections closed.", "code", self.closes)

    def _log(self, hub: Hub, lags: Mapping[int, Lag]) -> Iterator[Metric]:
        counts, journal = hub.counts, hub.journal
        yield _counter("tailrace_kafka_fetches", "Polls that brought records.", counts.fetches)
        yield _counter("tailrace_journal_passes", "Passes for who is behind.", counts.passes)
        yield _counter("tailrace_records", "Records consumed.", counts.records)
        yield _counter("tailrace_records_decoded", "Records decoded.", counts.decoded)
        yield _counters("tailrace_records_skipped", "Records skipped.", "reason", self.skipped)
        yield _counter("tailrace_duplicates", "Retries dropped.", journal.retries)
        yield _counter("tailrace_events_coalesced", "States replaced by newer.", counts.coalesced)
        yield GaugeMetricFamily("tailrace_journal_bytes", "Memory of the log.", journal.size)
        yield _counter("tailrace_replays", "Scans of the log.", self.replays.total())
        yield _gauges(
            "tailrace_partition_lag_records",
            "Records not yet consumed.",
            "partition",
            {partition: lag.records for partition, lag in lags.items()},
        )
        yield _gauges(
            "tailrace_partition_lag_seconds",
            "Age of the last record consumed, while any are waiting.",
            "partition",
            {partition: lag.seconds for partition, lag in lags.items()},
        )


class _Collected:
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value)


def _counters(name: str, text: str, label: str, values: Mapping[_Label, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([str(value)], count)
    return family


def _gauges(name: str, text: str, label: str, values: Mapping[_Label, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([str(value)], count)
    return family
