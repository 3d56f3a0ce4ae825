"""Jars are fetched once, whole or not at all, by one process at a time."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tailrace.cli.errors import DiskFullError, FetchError, MavenMissingError
from tailrace.cli.jars import POM, cache_folder, ensure_jars

FETCHES = """
for option; do case $option in -DoutputDirectory=*) out=${option#*=};; esac; done
echo run >> "$(dirname "$0")/runs"
mkdir "$out" && echo jar > "$out/kafka.jar"
"""


class Maven(NamedTuple):
    folder: Path

    def does(self, script: str) -> None:
        executable = self.folder / "mvn"
        executable.write_text(f"#!/bin/sh\n{script}")
        executable.chmod(0o755)

    @property
    def runs(self) -> int:
        return len((self.folder / "runs").read_text().splitlines())


@pytest.fixture
def maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maven:
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("mkdir", "dirname"):
        (folder / tool).symlink_to(shutil.which(tool) or tool)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Maven(folder)


def left_over() -> list[str]:
    return sorted(path.name for path in cache_folder().iterdir())


def test_cache_is_below_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/tailrace")


def test_second_run_fetches_nothing(maven: Maven) -> None:
    maven.does(FETCHES)
    jars = ensure_jars()
    assert [jar.name for jar in jars.iterdir()] == ["kafka.jar"]
    maven.does("exit 1")
    assert ensure_jars() == jars
    assert left_over() == ["kafka-4.3.0", "kafka-4.3.0.lock", "kafka-4.3.0.log"]


def test_only_one_of_many_at_once_fetches(maven: Maven) -> None:
    maven.does(FETCHES)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ensure_jars(), range(4)))
    assert len(set(found)) == 1
    assert maven.runs == 1


def test_failed_fetch_leaves_nothing_and_names_the_log(maven: Maven) -> None:
    maven.does(f"{FETCHES}\necho no network; exit 1")
    with pytest.raises(FetchError) as caught:
        ensure_jars()
    assert str(caught.value).endswith(f"see {caught.value.log}")
    assert caught.value.log.read_text() == "no network\n"
    assert left_over() == ["kafka-4.3.0.lock", "kafka-4.3.0.log"]


def test_no_maven_says_what_to_install(maven: Maven) -> None:
    assert not (maven.folder / "mvn").exists()
    with pytest.raises(MavenMissingError, match="apt install maven"):
        ensure_jars()


def test_full_disk_is_seen_before_the_fetch(maven: Maven, monkeypatch: pytest.MonkeyPatch) -> None:
    maven.does("exit 1")
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=7 << 20))
    with pytest.raises(DiskFullError, match=r"need 200 MB .* has 7 MB left"):
        ensure_jars()


def test_pom_names_no_address() -> None:
    assert "<version>4.3.0</version>" in POM
    assert "://" not in POM
