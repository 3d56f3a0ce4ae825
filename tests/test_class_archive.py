"""The archive saves time where it can be made, and does no harm where not."""

from pathlib import Path

import fake_kafka
import pytest

from tailrace.cli.class_archive import with_class_archive
from tailrace.cli.jars import ensure_jars
from tailrace.cli.java import Java, find_java


@pytest.mark.usefixtures("local_kafka_parts")
def test_archive_is_made_once_and_used() -> None:
    java = find_java(ensure_jars())
    (option,) = with_class_archive(java).options
    archive = Path(option.removeprefix("-XX:SharedArchiveFile="))
    made = archive.stat()
    assert made.st_size > 1 << 20
    assert with_class_archive(java).options == (option,)
    assert archive.stat().st_mtime_ns == made.st_mtime_ns
    assert not list(java.jars.glob("training-*"))


def archive_of(java: Java) -> Path:
    return java.jars / f"java-{java.version}.jsa"


def test_failure_is_remembered_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    java = fake_kafka.install(tmp_path, monkeypatch, on_serve=f"echo run >> {runs}; exit 1")
    archive_of(java).unlink()
    assert with_class_archive(java) == java
    assert with_class_archive(java) == java
    assert archive_of(java).stat().st_size == 0
    assert runs.read_text() == "run\n"


def test_unwritable_cache_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = fake_kafka.install(tmp_path, monkeypatch, on_serve="exit 1")
    nowhere = java._replace(jars=tmp_path / "a file" / "jars")
    (tmp_path / "a file").touch()
    assert with_class_archive(nowhere) == nowhere
