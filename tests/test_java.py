"""The user's Java is found and judged."""

import os
from pathlib import Path

import pytest

from tailrace.cli.errors import JavaMissingError, JavaTooOldError
from tailrace.cli.java import Java, find_java, major_version


@pytest.mark.parametrize(
    ("version", "major"),
    [("17.0.15", 17), ("21-ea", 21), ("1.8.0_292", 8), ("9", 9), ("of unknown version", 0)],
)
def test_major_version(version: str, major: int) -> None:
    assert major_version(version) == major


def fake_java(folder: Path, script: str) -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    return java


def says(version: str) -> str:
    return f"echo 'openjdk version \"{version}\" 2026-01-01' >&2"


def test_java_home_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_home = fake_java(tmp_path / "home", says("21.0.1"))
    on_path = fake_java(tmp_path / "path", says("17"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_java(tmp_path) == Java(at_home, "21.0.1", tmp_path)


def test_useless_java_home_leaves_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = fake_java(tmp_path / "path", says("17"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_java(tmp_path).executable == on_path


@pytest.mark.parametrize("script", ["exit 1", says("11.0.2"), says("1.8.0_292"), "true"])
def test_unfit_java_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    fake_java(tmp_path, script)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises((JavaMissingError, JavaTooOldError), match=r"^Kafka needs Java 17.*install"):
        find_java(tmp_path)


def test_no_java_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JavaMissingError, match="apt install openjdk-17"):
        find_java(tmp_path)


def test_command_ends_with_the_main_class_and_its_arguments() -> None:
    java = Java(Path("/j/java"), "17", Path("/jars"), ("-Dx=1",))
    command = java.command("kafka.Kafka", "file")
    assert command[0] == "/j/java"
    assert command[-3:] == ["-Dx=1", "kafka.Kafka", "file"]


def test_class_path_has_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b.jar", "a.jar", "c.txt"):
        (tmp_path / name).touch()
    environment = Java(Path("java"), "17", tmp_path).environment()
    assert environment["CLASSPATH"] == f"{tmp_path}/a.jar:{tmp_path}/b.jar"
    assert environment["PATH"] == os.environ["PATH"]
