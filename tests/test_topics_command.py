"""``tailrace topics create`` says in one line what is there."""

import pytest

from tailrace.cli.main import main, parse
from tailrace.cli.topics import DEFAULT_PARTITIONS, TopicOutcome
from tailrace.cli.topics_command import outcome_line


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (TopicOutcome("t", 12, created=True), "t: created, partitions: 12"),
        (TopicOutcome("t", 12, created=False), "t: exists, partitions: 12"),
        (TopicOutcome("t", 6, created=False), "t: exists with 6 partitions, not 12; left as is"),
    ],
)
def test_outcome_is_one_line(outcome: TopicOutcome, line: str) -> None:
    assert outcome_line(outcome, asked=12) == line


def test_defaults() -> None:
    arguments = parse(["topics", "create"])
    assert (arguments.partitions, arguments.replication) == (DEFAULT_PARTITIONS, None)


@pytest.mark.parametrize(
    "options", [["--partitions", "0"], ["--partitions", "x"], ["--replication", "-1"]]
)
def test_bad_number_is_bad_usage(options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["topics", "create", *options])
    assert caught.value.code == 2


@pytest.mark.usefixtures("command_defaults")
def test_topic_with_other_partitions_is_told_and_no_failure(
    kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka)
    monkeypatch.setenv("TAILRACE_TOPIC", topic)
    assert main(["topics", "create", "--partitions", "5"]) == 0
    assert capsys.readouterr().out == f"{topic}: exists with 4 partitions, not 5; left as is\n"
