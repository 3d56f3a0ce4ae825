"""``tailrace kafka`` as a user meets it."""

import socket
from pathlib import Path

import fake_kafka
import pytest

from tailrace.cli.main import main, parse
from tailrace.cli.ports import free_ports

pytestmark = pytest.mark.usefixtures("command_defaults")


@pytest.mark.usefixtures("local_kafka_parts")
def test_up_status_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    which = ["--port", str(port), "--data", str(tmp_path)]
    try:
        assert main(["kafka", "up", *which]) == 0
        assert capsys.readouterr().out == f"127.0.0.1:{port}\n"
        assert main(["kafka", "status", *which]) == 0
        assert f"broker 1  127.0.0.1:{port}  answers  pid " in capsys.readouterr().out
    finally:
        assert main(["kafka", "down", *which]) == 0
    assert capsys.readouterr().out == "stopped\n"
    assert main(["kafka", "down", *which]) == 0
    assert capsys.readouterr().out == "nothing was running\n"
    assert main(["kafka", "status", *which]) == 1
    status = capsys.readouterr()
    assert status.out.startswith(f"broker 1  127.0.0.1:{port}  no answer  not running  log /")
    assert "1 of 1 brokers do not answer: start with" in status.err


def test_status_of_nothing_fails_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kafka", "status", "--data", str(tmp_path)]) == 1
    assert capsys.readouterr() == (
        "",
        f"tailrace: In {tmp_path} there is no Kafka: start with `tailrace kafka up`\n",
    )


def test_taken_port_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_kafka.install(tmp_path, monkeypatch, on_serve="true")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main(["kafka", "up", "--port", str(port)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        f"tailrace: Port {port} is taken: stop what listens there, or choose another with --port"
    ]
    assert (tmp_path / "state" / "tailrace" / f"kafka-{port}").is_dir()


@pytest.mark.parametrize(
    "options", [["--port", "x"], ["--port", "65534"], ["--port", "-1"], ["--brokers", "2"], ["x"]]
)
def test_bad_options_are_bad_usage(options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["kafka", "up", *options])
    assert caught.value.code == 2
