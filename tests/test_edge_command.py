import socket

import pytest

from tailrace.cli.main import main
from tailrace.edge.settings import EdgeSettings


def test_open_address_without_insecure_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edge", "--host", "0.0.0.0"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "--insecure" in line


def test_taken_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["edge", "--port", str(port)]) == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err.splitlines()[-1]


def test_refused_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAILRACE_MAX_CONNECTIONS", "many")
    assert main(["edge"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("tailrace: TAILRACE_MAX_CONNECTIONS: ")


def test_every_setting_is_a_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[EdgeSettings] = []
    monkeypatch.setattr("tailrace.cli.edge_command.run_edge", served.append)
    flags = ["--bootstrap-servers", "k:1", "--journal-max-bytes", "65536", "--drain-seconds", "2.5"]

    assert main(["edge", "--insecure", *flags]) == 0

    [settings] = served
    assert settings.bootstrap_servers == "k:1"
    assert (settings.journal_max_bytes, settings.drain_seconds) == (65536, 2.5)
    assert settings.insecure
    with pytest.raises(SystemExit):
        main(["edge", "--help"])
    told = capsys.readouterr().out
    for name in EdgeSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in told
