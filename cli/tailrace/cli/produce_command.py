"""``tailrace produce``: events from lines of JSON to the topic, each validated."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO, Final, NamedTuple

import orjson
from pydantic import ValidationError

from tailrace.cli.errors import BrokerUnreachableError, InputError, LinesError, SettingsError
from tailrace.producers import Emitter, ProducerSettings, run_scope
from tailrace.schemas import KINDS, ParameterError, is_event_type

__all__ = ["Line", "add_arguments", "lines_of", "parse_line", "produce", "run"]

_LINE_MAX_BYTES: Final = 8 << 20
_WINDOW: Final = 5000
"""Events under way before reading waits for Kafka."""
_WINDOW_BYTES: Final = 16 << 20
"""The same bound in bytes of lines."""
_PATIENCE_S: Final = 30.0
_PROJECT_MAX_CHARS: Final = 1024
_OWN_MEMBERS: Final = ("project", "type", "run", "kind", "error")


class Line(NamedTuple):
    """What one line says."""

    project: str
    type: str
    kind: str
    run: str | None
    error: str | None
    body: dict[str, object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the one positional argument."""
    parser.epilog = (
        "send each line of FILE, an object "
        '{"project", "type", <body members>, "run"?, "kind"?, "error"?}, as an event to the topic '
        "TAILRACE_TOPIC (default tailrace.events) at KAFKA_BOOTSTRAP_SERVERS (default "
        "127.0.0.1:9092); blank lines are skipped, and a line that is no event is told by its "
        "number and left out"
    )
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="- is stdin (default)")


def run(arguments: argparse.Namespace) -> int:
    """Send the file and say in one line how many events Kafka has."""
    with ExitStack() as stack:
        stream: BinaryIO = sys.stdin.buffer
        if arguments.file != "-":
            try:
                stream = stack.enter_context(open(arguments.file, "rb"))  # noqa: PTH123 - "-" too
            except OSError as exc:
                raise InputError(arguments.file, exc.strerror or str(exc)) from exc
        sent = produce(stream, _settings())
    print(f"{sent} events sent")
    return 0


def produce(stream: BinaryIO, settings: ProducerSettings) -> int:
    """Send every good line and return how many there were.

    Memory is flat: at most 5000 events, 16 MiB of lines and one line are held, and never so much
    that the emitter's buffer would let go of anything.

    Raises:
        LinesError: There were bad ones, which were told on stderr; all others were sent.
        BrokerUnreachableError: Kafka takes nothing; what was read waits in the spool.
    """
    emitter = Emitter(settings)
    # A buffer that is less than half full neither drops nor conflates.
    window = min(_WINDOW, max(1, settings.buffer_max_events // 2 - 1))
    window_bytes = min(_WINDOW_BYTES, settings.buffer_max_bytes // 4)
    bad = sent = held = held_bytes = 0
    try:
        for number, text in enumerate(lines_of(stream), 1):
            if text is not None and not text.strip():
                continue
            try:
                _emit(emitter, parse_line(text))
            except ParameterError as exc:
                bad += 1
                print(f"line {number}: {exc}", file=sys.stderr)
                continue
            sent, held, held_bytes = sent + 1, held + 1, held_bytes + _size(text)
            if held >= window or held_bytes >= window_bytes:
                _wait(emitter, settings)
                held = held_bytes = 0
        _wait(emitter, settings)
    finally:
        emitter.close()
    if bad:
        raise LinesError(bad, sent)
    return sent


def _size(text: bytes | None) -> int:
    """Return what the event of a line may take of the buffer, in bytes."""
    return 1024 + len(text or b"")


def lines_of(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines; None for one of more than 8 MiB, of which never more is held."""
    while line := stream.readline(_LINE_MAX_BYTES + 1):
        if len(line) <= _LINE_MAX_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(_LINE_MAX_BYTES)
        yield None


def parse_line(text: bytes | None) -> Line:
    """Return what a line says.

    Raises:
        ParameterError: It is no event; `name` is the member at fault.
    """
    if text is None:
        raise ParameterError("line", f"longer than {_LINE_MAX_BYTES} bytes")
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise ParameterError("line", f"not JSON: {exc}") from exc
    if not isinstance(members, dict):
        raise ParameterError("line", "not a JSON object")
    project, event_type, run_id, kind, error = (members.pop(name, None) for name in _OWN_MEMBERS)
    if not isinstance(project, str) or not 0 < len(project) <= _PROJECT_MAX_CHARS:
        raise ParameterError("project", f"not a text of 1 to {_PROJECT_MAX_CHARS} characters")
    if not isinstance(event_type, str) or not is_event_type(event_type):
        raise ParameterError("type", f"not a dotted lower-case name: {event_type!r:.80}")
    if run_id is not None and (not isinstance(run_id, str) or not run_id):
        raise ParameterError("run", f"not a text: {run_id!r:.80}")
    if error is not None and not isinstance(error, str):
        raise ParameterError("error", f"not a text: {error!r:.80}")
    return Line(project, event_type, _kind(kind, event_type), run_id, error, members)


def _kind(given: object, event_type: str) -> str:
    """Return the kind of run: the given one, else that of the type's name."""
    if given is None:
        family = event_type.partition(".")[0]
        return family if family in KINDS else "custom"
    if not isinstance(given, str) or given not in KINDS:
        raise ParameterError("kind", f"not one of {', '.join(KINDS)}: {given!r:.80}")
    return given


def _emit(emitter: Emitter, line: Line) -> None:
    with ExitStack() as stack:
        if line.run is not None:
            stack.enter_context(run_scope(line.run))
        taken = emitter.emit(line.kind, line.project, line.type, line.body, line.error, spread=True)
    if not taken:
        raise ParameterError("line", "the emitter refused it")


def _wait(emitter: Emitter, settings: ProducerSettings) -> None:
    """Wait for Kafka, as long as it takes anything at all."""
    acknowledged = -1
    while not emitter.flush(_PATIENCE_S):
        if emitter.stats().acknowledged == acknowledged:
            raise BrokerUnreachableError(settings.bootstrap_servers)
        acknowledged = emitter.stats().acknowledged


def _settings() -> ProducerSettings:
    try:
        return ProducerSettings()
    except ValidationError as exc:
        raise SettingsError(exc) from exc
