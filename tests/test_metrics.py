from collections.abc import Mapping

from edge_harness import make_event, parse_metrics, record_of
from prometheus_client.parser import text_string_to_metric_families

from tailrace.edge.channel import ChannelKey
from tailrace.edge.consumer import Lag
from tailrace.edge.hub import Hub, Log
from tailrace.edge.metrics import DeliveryHistogram, Metrics
from tailrace.edge.protocol import CloseCode

LAGS = {0: Lag(5, 0.5), 1: Lag(0, 0.0)}


def _hub() -> Hub:
    hub = Hub(journal_max_bytes=1 << 20, skip=lambda *_: None)
    hub.begin(Log(1, 2), {0: (-1, -1), 1: (-1, -1)})
    return hub


def _rendered(metrics: Metrics, hub: Hub | None = None, lags: Mapping[int, Lag] = LAGS) -> bytes:
    return metrics.render(hub=_hub() if hub is None else hub, lags=lags)


def _filled() -> bytes:
    hub = _hub()
    for n in range(3):
        hub.open(ChannelKey(f"p{n}", None), 0, 0.0)
    event = make_event("p0")
    hub.publish(0, [record_of(event, 0), record_of(event, 1), record_of(make_event("no"), 2)], 0.0)
    hub.counts.deliveries = 40
    hub.counts.frames = 20
    hub.counts.decoded = 7
    hub.counts.coalesced = 9
    hub.counts.fetches = 11
    hub.counts.passes = 12
    metrics = Metrics()
    metrics.connections["websocket"] = 4
    metrics.connections["sse"] = 2
    for code in (1012, 4008, 1012):
        metrics.count_close(code)
    metrics.skipped["no_key"] = 6
    metrics.resumes["journal"] = 8
    metrics.gaps["retention"] = 1
    metrics.replays.update({0: 2, 1: 1})
    return _rendered(metrics, hub)


def test_every_number_appears_under_its_contract_name() -> None:
    samples = parse_metrics(_filled())

    assert samples.pop("tailrace_journal_bytes") > 0
    histogram = {name for name in samples if name.startswith("tailrace_delivery_seconds")}
    assert histogram
    assert {name: value for name, value in samples.items() if name not in histogram} == {
        "tailrace_connections{transport=websocket}": 4,
        "tailrace_connections{transport=sse}": 2,
        "tailrace_channels": 3,
        "tailrace_lagging_sessions": 0,
        "tailrace_overruns_total": 0,
        "tailrace_deliveries_total": 40,
        "tailrace_frames_total": 20,
        "tailrace_events_coalesced_total": 9,
        "tailrace_kafka_fetches_total": 11,
        "tailrace_journal_passes_total": 12,
        "tailrace_records_total": 3,
        "tailrace_records_decoded_total": 7,
        "tailrace_records_skipped_total{reason=no_key}": 6,
        "tailrace_duplicates_total": 1,
        "tailrace_replays_total": 3,
        "tailrace_resumes_total{outcome=journal}": 8,
        "tailrace_gaps_total{reason=retention}": 1,
        "tailrace_partition_lag_records{partition=0}": 5,
        "tailrace_partition_lag_records{partition=1}": 0,
        "tailrace_partition_lag_seconds{partition=0}": 0.5,
        "tailrace_partition_lag_seconds{partition=1}": 0,
        "tailrace_closes_total{code=1012}": 2,
        "tailrace_closes_total{code=4008}": 1,
    }


def test_types_are_what_the_names_promise() -> None:
    families = {
        family.name: family.type for family in text_string_to_metric_families(_filled().decode())
    }

    assert families == {
        "tailrace_connections": "gauge",
        "tailrace_channels": "gauge",
        "tailrace_lagging_sessions": "gauge",
        "tailrace_overruns": "counter",
        "tailrace_deliveries": "counter",
        "tailrace_frames": "counter",
        "tailrace_events_coalesced": "counter",
        "tailrace_kafka_fetches": "counter",
        "tailrace_journal_passes": "counter",
        "tailrace_records": "counter",
        "tailrace_records_decoded": "counter",
        "tailrace_records_skipped": "counter",
        "tailrace_duplicates": "counter",
        "tailrace_replays": "counter",
        "tailrace_resumes": "counter",
        "tailrace_gaps": "counter",
        "tailrace_journal_bytes": "gauge",
        "tailrace_delivery_seconds": "histogram",
        "tailrace_partition_lag_records": "gauge",
        "tailrace_partition_lag_seconds": "gauge",
        "tailrace_closes": "counter",
    }


def test_node_that_waits_for_kafka_has_metrics_without_lags() -> None:
    samples = parse_metrics(_rendered(Metrics(), lags={}))

    assert samples["tailrace_channels"] == 0
    assert not [name for name in samples if "lag_" in name]


def test_close_codes_that_viewers_made_up_are_one_series() -> None:
    metrics = Metrics()
    for code in (3000, 4321, 4999, 1006, *CloseCode):
        metrics.count_close(code)

    closes = {name: n for name, n in parse_metrics(_rendered(metrics)).items() if "closes" in name}
    assert closes == {
        "tailrace_closes_total{code=other}": 3,
        "tailrace_closes_total{code=1006}": 1,
        **{f"tailrace_closes_total{{code={code.value}}}": 1 for code in CloseCode},
    }


def test_rendering_again_gives_the_numbers_of_now() -> None:
    metrics, hub = Metrics(), _hub()
    before = parse_metrics(_rendered(metrics, hub))
    hub.counts.frames += 1
    after = parse_metrics(_rendered(metrics, hub))

    assert (before["tailrace_frames_total"], after["tailrace_frames_total"]) == (0, 1)


def test_histogram_is_cumulative_and_weighted_by_viewers() -> None:
    metrics = Metrics()
    metrics.delivery.observe(0.001, 10)  # a bound belongs to its own bucket
    metrics.delivery.observe(0.0011, 5)
    metrics.delivery.observe(1.0, 2)
    metrics.delivery.observe(61.0, 1)

    samples = parse_metrics(_rendered(metrics))

    bucket = "tailrace_delivery_seconds_bucket{le=%s}"
    assert samples[bucket % "0.001"] == 10
    assert samples[bucket % "0.0025"] == 15
    assert samples[bucket % "0.5"] == 15
    assert samples[bucket % "1.0"] == 17
    assert samples[bucket % "60.0"] == 17
    assert samples[bucket % "+Inf"] == 18
    assert samples["tailrace_delivery_seconds_count"] == 18
    assert samples["tailrace_delivery_seconds_sum"] == 0.01 + 0.0011 * 5 + 2.0 + 61.0


def test_unused_histogram_is_all_zero() -> None:
    [*buckets] = DeliveryHistogram().metric().samples

    assert {sample.value for sample in buckets} == {0}
