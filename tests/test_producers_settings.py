from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from tailrace.producers.settings import ProducerSettings, default_source, state_folder


def test_environment_gives_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:2")
    monkeypatch.setenv("TAILRACE_TOPIC", "t")
    monkeypatch.setenv("TAILRACE_SOURCE", "svc")
    monkeypatch.setenv("TAILRACE_MAX_EVENT_BYTES", "2048")
    settings = ProducerSettings()
    assert settings.bootstrap_servers == "a:1,b:2"
    assert settings.topic == "t"
    assert settings.source == "svc"
    assert settings.max_event_bytes == 2048


def test_defaults_are_those_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "TAILRACE_TOPIC", "TAILRACE_MAX_EVENT_BYTES"):
        monkeypatch.delenv(name, raising=False)
    settings = ProducerSettings()
    assert settings.bootstrap_servers == "127.0.0.1:9092"
    assert settings.topic == "tailrace.events"
    assert settings.max_event_bytes == 900_000


def test_argument_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "env:1")
    monkeypatch.setenv("TAILRACE_TOPIC", "env")
    settings = ProducerSettings(bootstrap_servers="arg:1", topic="arg")
    assert (settings.bootstrap_servers, settings.topic) == ("arg:1", "arg")


def test_buffer_that_cannot_hold_an_event_is_refused() -> None:
    with pytest.raises(ValidationError, match="twice max_event_bytes"):
        ProducerSettings(max_event_bytes=900_000, buffer_max_bytes=1 << 20)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("/srv/app/ingest.py", "ingest@h"),
        ("/usr/bin/uvicorn", "uvicorn@h"),
        ("/site-packages/tailrace/cli/__main__.py", "cli@h"),
        ("", "python@h"),
        ("-c", "-c@h"),
    ],
)
def test_source_names_program_and_host(program: str, expected: str) -> None:
    assert default_source(program, "h") == expected


def test_misspelt_setting_is_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_BUFFER_MAX_EVENT", "10")
    with pytest.raises(ValidationError, match="did you mean TAILRACE_BUFFER_MAX_EVENTS"):
        ProducerSettings()


def test_misspelt_name_of_kafkas_is_refused_unless_the_right_one_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVER", "a:1")
    monkeypatch.setenv("KAFKA_HEAP_OPTS", "-Xmx1g")
    with pytest.raises(ValidationError, match="did you mean KAFKA_BOOTSTRAP_SERVERS"):
        ProducerSettings()
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "b:1")
    assert ProducerSettings().bootstrap_servers == "b:1"


_OF_OTHER_PARTS = """
    SCHEMA_REGISTRY_URL AUTH__SECRET AUTH__ISSUER ALLOWED_ORIGINS JOURNAL_MAX_BYTES
    REPLAY_MAX_BYTES HEARTBEAT_MS DRAIN_SECONDS HANDSHAKE_SECONDS INGEST_ROOT MAX_CONNECTIONS
    MAX_MESSAGE_BYTES REQUIRE
"""


def test_settings_of_other_parts_are_not_ours_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _OF_OTHER_PARTS.split():
        monkeypatch.setenv(f"TAILRACE_{name}", "1")
    ProducerSettings()


def test_account_is_needed_for_sasl_and_is_no_text_of_the_settings() -> None:
    with pytest.raises(ValidationError, match="KAFKA_SASL_USERNAME"):
        ProducerSettings(security_protocol="SASL_SSL")
    made = ProducerSettings(
        security_protocol="SASL_SSL", sasl_username="u", sasl_password=SecretStr("hidden")
    )
    assert "hidden" not in repr(made)


def test_token_is_needed_for_oauthbearer(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="KAFKA_SASL_TOKEN_FILE"):
        ProducerSettings(security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER")
    ProducerSettings(
        security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER", sasl_token_file=tmp_path / "t"
    )


def test_user_without_a_home_can_emit_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert state_folder().is_absolute()
