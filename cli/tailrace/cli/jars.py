"""Kafka's jars in the user's cache folder: fetched once by Maven, then never again.

The folder appears by one rename, so it is complete or absent; a file lock lets one process
fetch while others wait for it.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from tailrace.cli.errors import DiskFullError, FetchError, MavenMissingError

__all__ = ["KAFKA_VERSION", "cache_folder", "ensure_jars", "locked"]

KAFKA_VERSION: Final = "4.3.0"

SPACE_NEEDED: Final = 200 << 20
"""Bytes that must be free before a fetch: the jars, their archive and Maven's own copies."""

FETCH_TIMEOUT_S: Final = 300.0

# slf4j-simple writes what Kafka logs to stderr, without a configuration file.
POM: Final = f"""\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>tailrace</groupId>
  <artifactId>local-kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""

log = structlog.get_logger(__name__)


def cache_folder() -> Path:
    """Return Tailrace's folder below ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "tailrace"


def ensure_jars() -> Path:
    """Return the folder with Kafka's jars, fetching them (45 MB) if it is not there yet.

    Blocks while another process fetches. What an interrupted fetch leaves is removed.

    Raises:
        MavenMissingError: They must be fetched and there is no ``mvn``.
        DiskFullError: They must be fetched and the disk has no room.
        FetchError: Maven failed, or took longer than ``FETCH_TIMEOUT_S``.
    """
    jars = cache_folder() / f"kafka-{KAFKA_VERSION}"
    if jars.is_dir():
        return jars
    with locked(jars.with_name(f"{jars.name}.lock")):
        if not jars.is_dir():
            _fetch(jars)
    return jars


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``file``, among processes and threads, while the block runs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _fetch(jars: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MavenMissingError
    free = shutil.disk_usage(jars.parent).free
    if free < SPACE_NEEDED:
        raise DiskFullError(jars.parent, free, SPACE_NEEDED)
    log.info("kafka_fetch", version=KAFKA_VERSION, folder=str(jars))
    with tempfile.TemporaryDirectory(dir=jars.parent, prefix="fetch-") as temporary:
        fetched = Path(temporary, "jars")
        _run_maven(maven, Path(temporary, "pom.xml"), fetched, jars.with_name(f"{jars.name}.log"))
        fetched.rename(jars)


def _run_maven(maven: str, pom: Path, output: Path, log_file: Path) -> None:
    pom.write_text(POM)
    command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={output}"]
    with log_file.open("w") as words:
        try:
            subprocess.run(  # noqa: S603 - an absolute path and our own arguments
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                timeout=FETCH_TIMEOUT_S,
                check=True,
            )
        except (subprocess.SubprocessError, OSError) as error:
            raise FetchError(log_file) from error
