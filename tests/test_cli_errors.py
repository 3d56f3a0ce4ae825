"""Every failure of the command line is one line that names the remedy."""

from pathlib import Path

import pytest

from tailrace.cli.errors import (
    BrokerUnreachableError,
    DataFolderError,
    DiskFullError,
    FetchError,
    JavaMissingError,
    JavaTooOldError,
    ListenError,
    MavenMissingError,
    MissingExtraError,
    MissingPartError,
    NoClusterError,
    NotRunningError,
    OtherClusterError,
    PortTakenError,
    StartError,
    TopicError,
)
from tailrace.schemas.errors import TailraceError

HERE = Path("/data")

REMEDIES: list[tuple[TailraceError, str]] = [
    (BrokerUnreachableError("h:1"), "start one with `tailrace kafka up`"),
    (JavaMissingError(17), "install a JDK"),
    (JavaTooOldError(HERE, "11", 17), "install a newer JDK"),
    (MavenMissingError(), "install it"),
    (DiskFullError(HERE, 1, 2), "free some space"),
    (FetchError(HERE), "check the network"),
    (PortTakenError(1), "choose another with --port"),
    (OtherClusterError(HERE, "1 broker", "3"), "give --data another folder"),
    (DataFolderError(HERE, "why"), "give --data another folder"),
    (NoClusterError(HERE), "create it with `tailrace kafka up`"),
    (NotRunningError(HERE, 1, 3), "start with `tailrace kafka up`"),
    (NotRunningError(HERE, 0, 0), "start with `tailrace kafka up`"),
    (StartError("it ended", HERE), "see /data"),
    (TopicError("t", "why"), "why"),
    (MissingExtraError("edge", "edge", "aiohttp"), "pip install 'tailrace[edge]'"),
    (ListenError("h", 1, "why"), "choose another --port"),
]


@pytest.mark.parametrize(
    ("error", "remedy"), REMEDIES, ids=[type(error).__name__ for error, _ in REMEDIES]
)
def test_text_is_one_line_with_the_remedy(error: TailraceError, remedy: str) -> None:
    assert remedy in str(error)
    assert "\n" not in str(error)


def test_what_may_come_back_is_retriable() -> None:
    assert BrokerUnreachableError.retriable
    assert MissingPartError.retriable
    assert not TopicError.retriable
