from pathlib import Path

import pytest
from pydantic import ValidationError

from tailrace.services.settings import ServicesSettings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ServicesSettings.model_fields:
        monkeypatch.delenv(f"TAILRACE_{name.upper()}", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_defaults_read_the_working_folder_and_slow_nothing(tmp_path: Path) -> None:
    settings = ServicesSettings()
    assert settings.ingest_root == Path.cwd()
    assert settings.data_dir == tmp_path / ".local" / "state" / "tailrace"
    assert settings.ingest_pace_ms == 0


def test_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAILRACE_INGEST_ROOT", str(tmp_path))
    monkeypatch.setenv("TAILRACE_INGEST_PACE_MS", "50")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    settings = ServicesSettings()
    assert settings.ingest_root == tmp_path
    assert settings.ingest_pace_ms == 50
    assert settings.data_dir == Path("/state/tailrace")


def test_capacities_are_in_seconds() -> None:
    settings = ServicesSettings(ingest_workers=1, ingest_pace_ms=1500, graph_pace_ms=250)
    assert settings.ingest_capacity == (1, 100, 1.5)
    assert settings.agent_capacity == settings.workflow_capacity == (2, 100, 0.25)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INGEST_ROOT", "/no/such/folder"),
        ("INGEST_WORKERS", "0"),
        ("INGEST_MAX_JOBS", "-1"),
        ("INGEST_PACE_MS", "soon"),
        ("AGENT_MAX_STEPS", "1"),
        ("WORKFLOW_WORKERS", "0"),
    ],
)
def test_impossible_value_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(f"TAILRACE_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        ServicesSettings()
