from edge_harness import parse_metrics
from prometheus_client.parser import text_string_to_metric_families

from tailrace.edge.consumer import Lag
from tailrace.edge.metrics import DeliveryHistogram, Metrics


def _rendered(metrics: Metrics) -> bytes:
    return metrics.render(channels=3, records=10, decoded=7, lags={0: Lag(5, 0.5), 1: Lag(0, 0.0)})


def _filled() -> Metrics:
    metrics = Metrics()
    metrics.connections["websocket"] = 4
    for code in (1012, 4008, 1012):
        metrics.count_close(code)
    metrics.skipped["no_key"] = 6
    metrics.deliveries = 40
    metrics.frames = 20
    return metrics


def test_every_number_appears_under_its_contract_name() -> None:
    samples = parse_metrics(_rendered(_filled()))

    histogram = {name for name in samples if name.startswith("tailrace_delivery_seconds")}
    assert {name: value for name, value in samples.items() if name not in histogram} == {
        "tailrace_connections{transport=websocket}": 4,
        "tailrace_channels": 3,
        "tailrace_deliveries_total": 40,
        "tailrace_frames_total": 20,
        "tailrace_records_total": 10,
        "tailrace_records_decoded_total": 7,
        "tailrace_records_skipped_total{reason=no_key}": 6,
        "tailrace_partition_lag_records{partition=0}": 5,
        "tailrace_partition_lag_records{partition=1}": 0,
        "tailrace_partition_lag_seconds{partition=0}": 0.5,
        "tailrace_partition_lag_seconds{partition=1}": 0,
        "tailrace_closes_total{code=1012}": 2,
        "tailrace_closes_total{code=4008}": 1,
    }


def test_types_are_what_the_names_promise() -> None:
    families = {
        family.name: family.type
        for family in text_string_to_metric_families(_rendered(_filled()).decode())
    }

    assert families == {
        "tailrace_connections": "gauge",
        "tailrace_channels": "gauge",
        "tailrace_deliveries": "counter",
        "tailrace_frames": "counter",
        "tailrace_records": "counter",
        "tailrace_records_decoded": "counter",
        "tailrace_records_skipped": "counter",
        "tailrace_delivery_seconds": "histogram",
        "tailrace_partition_lag_records": "gauge",
        "tailrace_partition_lag_seconds": "gauge",
        "tailrace_closes": "counter",
    }


def test_close_codes_that_viewers_made_up_are_one_series() -> None:
    metrics = Metrics()
    for code in (3000, 4321, 4999, 1006):
        metrics.count_close(code)

    closes = {name: n for name, n in parse_metrics(_rendered(metrics)).items() if "closes" in name}
    assert closes == {
        "tailrace_closes_total{code=other}": 3,
        "tailrace_closes_total{code=1006}": 1,
    }


def test_rendering_again_gives_the_numbers_of_now() -> None:
    metrics = Metrics()
    before = parse_metrics(_rendered(metrics))
    metrics.frames += 1
    after = parse_metrics(_rendered(metrics))

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
