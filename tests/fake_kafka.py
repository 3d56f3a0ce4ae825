"""A Java that plays the part of a broker that fails, so that failures take no time."""

from pathlib import Path

import pytest

from tailrace.cli.jars import KAFKA_VERSION
from tailrace.cli.java import Java

VERSION = "17.0.99"

SCRIPT = """#!/bin/sh
case "$*" in
  *-version*) echo 'openjdk version "{version}"' >&2 ;;
  *StorageTool*) {format} ;;
  *kafka.Kafka*) {serve} ;;
esac
"""


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, on_format: str = "true", on_serve: str
) -> Java:
    """Make it the user's Java, with jars in the cache and no class archive to be made."""
    java = folder / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(SCRIPT.format(version=VERSION, format=on_format, serve=on_serve))
    java.chmod(0o755)
    jars = folder / "cache" / "tailrace" / f"kafka-{KAFKA_VERSION}"
    jars.mkdir(parents=True)
    (jars / f"java-{VERSION}.jsa").touch()
    monkeypatch.setenv("JAVA_HOME", str(folder / "java"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return Java(java, VERSION, jars)
