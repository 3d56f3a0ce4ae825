import sqlite3
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tailrace.services.database import Database
from tailrace.services.errors import StorageError

SCHEMA = "CREATE TABLE IF NOT EXISTS t (a TEXT UNIQUE)"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "state" / "t.db", SCHEMA) as database:
        yield database


def rows(database: Database) -> list[str]:
    with database.transaction() as transaction:
        return [a for (a,) in transaction.execute("SELECT a FROM t ORDER BY a")]


def insert(database: Database, values: Iterable[str]) -> None:
    with database.transaction() as transaction:
        for value in values:
            transaction.execute("INSERT INTO t VALUES (?)", (value,))


def test_transaction_takes_effect_as_a_whole(database: Database) -> None:
    insert(database, ["a", "b"])
    assert rows(database) == ["a", "b"]


def test_failed_statement_undoes_the_transaction_and_is_mapped(database: Database) -> None:
    with pytest.raises(StorageError, match=r"^t\.db: UNIQUE constraint failed"):
        insert(database, ["a", "b", "a"])
    assert rows(database) == []


def test_any_other_exception_undoes_the_transaction_too(database: Database) -> None:
    def crashing() -> Iterator[str]:
        yield "a"
        raise KeyError

    with pytest.raises(KeyError):
        insert(database, crashing())
    assert rows(database) == []


def test_closed_database_is_unavailable(database: Database) -> None:
    database.close()
    database.close()
    with pytest.raises(StorageError):
        rows(database)


def test_exclusive_database_keeps_another_one_out(tmp_path: Path) -> None:
    with (
        Database(tmp_path / "t.db", SCHEMA, exclusive=True) as database,
        pytest.raises(StorageError, match="another process uses it"),
    ):
        Database(tmp_path / "t.db", SCHEMA, exclusive=True)
    assert repr(database) == "<Database t.db>"
    Database(tmp_path / "t.db", SCHEMA, exclusive=True).close()


def test_full_database_fails_and_can_still_be_read(tmp_path: Path) -> None:
    with Database(tmp_path / "t.db", SCHEMA, max_bytes=64 * 1024) as database:
        insert(database, ["kept"])
        with pytest.raises(StorageError, match="full"):
            insert(database, ["x" * 100_000])
        assert rows(database) == ["kept"]
    assert (tmp_path / "t.db").stat().st_size <= 64 * 1024


def test_file_of_another_version_is_refused(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "t.db")
    other.execute("PRAGMA user_version=7")
    other.close()
    with pytest.raises(StorageError, match="another version of Tailrace: 7"):
        Database(tmp_path / "t.db", SCHEMA)


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.db").write_text("plain text, and long enough to be looked at" * 50)
    with pytest.raises(StorageError, match="not a database"):
        Database(tmp_path / "t.db", SCHEMA)


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        Database(tmp_path / "file" / "t.db", SCHEMA)


def test_its_folder_belongs_to_the_owner_alone(database: Database, tmp_path: Path) -> None:
    assert rows(database) == []
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
