import socket
from pathlib import Path

import pytest

from tailrace.cli.main import main


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAILRACE_DATA_DIR", str(tmp_path))


def test_taken_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["services", "--port", str(port)]) == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err.splitlines()[-1]


def test_missing_ingest_root_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TAILRACE_INGEST_ROOT", str(tmp_path / "no-such"))
    assert main(["services"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("tailrace: TAILRACE_INGEST_ROOT: ")
