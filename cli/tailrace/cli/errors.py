"""The command line's branch of the error tree; each text is one line that says what to do.

::

    TailraceError
    ├── UnavailableError
    │   ├── BrokerUnreachableError    nothing answers as Kafka there
    │   └── MissingPartError          this machine lacks a part of the local Kafka
    │       ├── JavaMissingError
    │       ├── JavaTooOldError
    │       ├── MavenMissingError
    │       ├── DiskFullError
    │       └── FetchError            Maven ran and failed
    ├── LocalKafkaError
    │   ├── PortTakenError
    │   ├── OtherClusterError         the data folder belongs to a cluster of another shape
    │   ├── DataFolderError           the data folder cannot be used
    │   ├── NoClusterError            the data folder holds no cluster, or not this node
    │   ├── NotRunningError           not every node of it answers
    │   └── StartError                a node ended, or did not answer in time
    ├── TopicError                    the broker refused the topic
    ├── MissingExtraError             a subcommand whose packages are not installed
    ├── SettingsError                 a setting is refused
    ├── ListenError                   an address cannot be listened on
    ├── ChildError                    a process that was started did not come up
    ├── LinesError                    lines of the input are no events
    ├── InputError                    the input cannot be read
    └── DemoError                     the demo cannot go on
"""

from pathlib import Path

from pydantic import ValidationError

from tailrace.schemas.errors import TailraceError, UnavailableError

__all__ = [
    "BrokerUnreachableError",
    "ChildError",
    "DataFolderError",
    "DemoError",
    "DiskFullError",
    "FetchError",
    "InputError",
    "JavaMissingError",
    "JavaTooOldError",
    "LinesError",
    "ListenError",
    "LocalKafkaError",
    "MavenMissingError",
    "MissingExtraError",
    "MissingPartError",
    "NoClusterError",
    "NotRunningError",
    "OtherClusterError",
    "PortTakenError",
    "SettingsError",
    "StartError",
    "TopicError",
]


class BrokerUnreachableError(UnavailableError):
    """No Kafka broker answers at an address within the time given to it."""

    def __init__(self, servers: str) -> None:
        super().__init__(
            f"No Kafka answers at {servers}: start one with `tailrace kafka up`, "
            "or correct KAFKA_BOOTSTRAP_SERVERS"
        )
        self.servers = servers


class MissingPartError(UnavailableError):
    """This machine lacks something that a local Kafka needs; the text says what to install."""


class JavaMissingError(MissingPartError):
    """No ``java`` is on PATH or in JAVA_HOME."""

    def __init__(self, needed: int) -> None:
        super().__init__(
            f"Kafka needs Java {needed} or newer and there is none: "
            f"install a JDK (Debian: apt install openjdk-{needed}-jre-headless) or set JAVA_HOME"
        )


class JavaTooOldError(MissingPartError):
    """The ``java`` that was found cannot run Kafka."""

    def __init__(self, java: Path, found: str, needed: int) -> None:
        super().__init__(
            f"Kafka needs Java {needed} or newer and {java} is {found}: "
            "install a newer JDK or point JAVA_HOME at one"
        )
        self.java = java
        self.found = found


class MavenMissingError(MissingPartError):
    """No ``mvn`` is on PATH, and the jars are not in the cache yet."""

    def __init__(self) -> None:
        super().__init__(
            "Fetching Kafka needs Maven and there is none: "
            "install it (Debian: apt install maven); it is needed once"
        )


class DiskFullError(MissingPartError):
    """The cache folder's disk has no room for the jars."""

    def __init__(self, folder: Path, free: int, needed: int) -> None:
        super().__init__(
            f"Kafka's jars need {needed >> 20} MB and {folder} has {free >> 20} MB left: "
            "free some space or set XDG_CACHE_HOME to another disk"
        )
        self.free = free


class FetchError(MissingPartError):
    """Maven could not fetch the jars; its own words are in ``log``."""

    def __init__(self, log: Path) -> None:
        super().__init__(
            f"Maven could not fetch Kafka's jars: check the network and its settings, see {log}"
        )
        self.log = log


class LocalKafkaError(TailraceError):
    """The local Kafka cannot do what was asked."""


class PortTakenError(LocalKafkaError):
    """Something else listens on a port that a broker was to have."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"Port {port} is taken: stop what listens there, or choose another with --port"
        )
        self.port = port


class OtherClusterError(LocalKafkaError):
    """The data folder belongs to a cluster of another shape."""

    def __init__(self, data: Path, has: str, asked: str) -> None:
        super().__init__(
            f"{data} holds a cluster with {has}, not {asked}: "
            "give --data another folder, or ask for what it has"
        )
        self.data = data


class DataFolderError(LocalKafkaError):
    """The data folder cannot be read or written."""

    def __init__(self, data: Path, reason: str) -> None:
        super().__init__(f"{data} cannot be used ({reason}): give --data another folder")
        self.data = data


class NoClusterError(LocalKafkaError):
    """The data folder holds no cluster yet, or none with the node that was asked for."""

    def __init__(self, data: Path) -> None:
        super().__init__(f"{data} holds no such Kafka: create it with `tailrace kafka up`")
        self.data = data


class NotRunningError(LocalKafkaError):
    """Some or all nodes of the local Kafka do not answer."""

    def __init__(self, data: Path, silent: int, nodes: int) -> None:
        state = f"{silent} of {nodes} brokers do not answer" if nodes else "there is no Kafka"
        super().__init__(f"In {data} {state}: start with `tailrace kafka up`")
        self.data = data


class StartError(LocalKafkaError):
    """A node ended before it answered, or did not answer in time; ``log`` has its words."""

    def __init__(self, what: str, log: Path) -> None:
        super().__init__(f"Kafka did not start: {what}, see {log}")
        self.log = log


class TopicError(TailraceError):
    """The broker refused to create a topic."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"Topic {topic} was not created: {reason}")
        self.topic = topic
        self.reason = reason


class MissingExtraError(TailraceError):
    """A subcommand needs packages that are not installed."""

    def __init__(self, command: str, extra: str, module: str) -> None:
        super().__init__(
            f"`tailrace {command}` needs the package {module}: pip install 'tailrace[{extra}]'"
        )
        self.extra = extra


class SettingsError(TailraceError):
    """A setting, from the environment or a flag, has a value that cannot be."""

    def __init__(self, error: ValidationError) -> None:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])).upper()
        message = first["msg"].removeprefix("Value error, ")
        name = where if not where or where.startswith("KAFKA_") else f"TAILRACE_{where}"
        super().__init__(f"{name}: {message}" if name else message)


class ListenError(TailraceError):
    """An address cannot be listened on."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"Cannot listen on {host}:{port} ({reason}): choose another --port")
        self.port = port


class ChildError(TailraceError):
    """A process that was started ended, or did not answer in time; `log` has its words."""

    def __init__(self, url: str, log: Path) -> None:
        lines = log.read_text(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        super().__init__(f"{url} does not answer{said}")
        self.log = log


class LinesError(TailraceError):
    """Lines of the input are no events; each was told by its number."""

    def __init__(self, bad: int, sent: int) -> None:
        super().__init__(f"{bad} lines are no events and were left out; {sent} events were sent")
        self.bad = bad
        self.sent = sent


class InputError(TailraceError):
    """The input cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"Cannot read {path}: {reason}")


class DemoError(TailraceError):
    """The demo cannot go on."""
