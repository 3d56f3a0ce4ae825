import pytest

from tailrace.schemas import TailraceError
from tailrace.services import errors


@pytest.mark.parametrize(
    ("error", "message", "retriable"),
    [
        (
            errors.PathForbiddenError("../a"),
            "path: '../a' is outside of the folder whose files may be ingested",
            False,
        ),
        (errors.NotFoundError("job", "j1"), "there is no job 'j1'", False),
        (errors.RunEndedError("job", "j1", "failed"), "job j1 has already ended: failed", False),
        (errors.RunFailedError("no documents"), "no documents", False),
        (errors.RunStoppedError(), "the run was asked to stop", False),
        (errors.TooLargeError("file 'a'", 5), "file 'a' is larger than 5 bytes", False),
        (
            errors.UnsupportedTypeError("file 'a'", ".md"),
            "file 'a' is not supported, only .md",
            False,
        ),
        (errors.DocumentError("no text"), "no text", False),
        (errors.QueueFullError(3), "3 runs are waiting or running, ask again later", True),
        (errors.DrainingError(), "the service is shutting down", True),
        (errors.StorageError("a.db", "full"), "a.db: full", True),
    ],
)
def test_message_says_what_is_wrong_in_one_line(
    error: TailraceError,
    message: str,
    retriable: bool,  # noqa: FBT001 - a row of the table
) -> None:
    assert str(error) == message
    assert error.retriable is retriable
