import pytest
from pydantic import ValidationError

from tailrace.edge.settings import EdgeSettings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)


def test_defaults_are_those_of_the_contract() -> None:
    settings = EdgeSettings()

    assert settings.topic == "tailrace.events"
    assert settings.host == "127.0.0.1"
    assert settings.max_connections == 50_000
    assert settings.max_message_bytes == 65_536
    assert settings.heartbeat_ms == 25_000
    assert settings.drain_seconds == 10
    assert settings.origins == frozenset()
    assert settings.journal_max_bytes == 256 << 20
    assert settings.replay_max_bytes == 1 << 30


@pytest.mark.parametrize(
    ("heartbeat_ms", "seconds"), [(25_000, 10.0), (10_000, 10.0), (9_000, 9.0), (1_000, 1.0)]
)
def test_idle_event_stream_hears_something_every_10_s_at_least(
    heartbeat_ms: int, seconds: float
) -> None:
    assert EdgeSettings(heartbeat_ms=heartbeat_ms).sse_heartbeat_seconds == seconds


def test_environment_names_are_those_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "k1:9092,k2:9092")
    monkeypatch.setenv("TAILRACE_TOPIC", "t")
    monkeypatch.setenv("TAILRACE_ALLOWED_ORIGINS", "https://a.example, https://b.example/ ,")
    monkeypatch.setenv("TAILRACE_MAX_CONNECTIONS", "7")
    monkeypatch.setenv("TAILRACE_MAX_MESSAGE_BYTES", "128")
    monkeypatch.setenv("TAILRACE_HEARTBEAT_MS", "1000")
    monkeypatch.setenv("TAILRACE_DRAIN_SECONDS", "0")
    monkeypatch.setenv("TAILRACE_JOURNAL_MAX_BYTES", "65536")
    monkeypatch.setenv("TAILRACE_REPLAY_MAX_BYTES", "0")

    settings = EdgeSettings()

    assert settings.bootstrap_servers == "k1:9092,k2:9092"
    assert settings.topic == "t"
    assert settings.origins == {"https://a.example", "https://b.example"}
    assert settings.max_connections == 7
    assert settings.max_message_bytes == 128
    assert settings.heartbeat_ms == 1000
    assert settings.drain_seconds == 0
    assert settings.journal_max_bytes == 65_536
    assert settings.replay_max_bytes == 0


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "environment:9092")
    monkeypatch.setenv("TAILRACE_TOPIC", "environment")

    settings = EdgeSettings(bootstrap_servers="given:9092", topic="given")

    assert (settings.bootstrap_servers, settings.topic) == ("given:9092", "given")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "edge.example", ""])
def test_address_open_to_others_is_refused_without_insecure(host: str) -> None:
    with pytest.raises(ValidationError, match="is not loopback and no auth is set"):
        EdgeSettings(host=host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "edge.example"])
def test_address_open_to_others_is_taken_on_purpose(host: str) -> None:
    assert EdgeSettings(host=host, insecure=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    assert EdgeSettings(host=host).host == host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 65_536),
        ("port", -1),
        ("max_connections", 0),
        ("max_message_bytes", 127),
        ("heartbeat_ms", 99),
        ("drain_seconds", -0.1),
        ("session_buffer_bytes", 4095),
        ("journal_max_bytes", -1),
        ("replay_max_bytes", -1),
        ("ready_lag_records", 0),
    ],
)
def test_value_out_of_bounds_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        EdgeSettings.model_validate({name: value})
