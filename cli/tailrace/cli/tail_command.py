"""``tailrace tail``: follow a stream in the terminal."""

import argparse
import asyncio
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn, get_args

import orjson

from tailrace.cli.tail_line import gap_line, tail_line
from tailrace.client import Event, Gap, Stream
from tailrace.client.request import Kind
from tailrace.schemas import ParameterError

__all__ = ["add_arguments", "parse_run", "run"]

_KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to follow, from where, and how to show it."""
    parser.epilog = (
        "It goes on until Ctrl-C, reconnects by itself and misses nothing; what Kafka no longer "
        "has is told on stderr. With --json each line is the event and the cursor that --after "
        "takes to go on behind it; an event may then come again, none is missing."
    )
    parser.set_defaults(refuse=parser.error)
    parser.add_argument("project", metavar="PROJECT", help="id of the project")
    parser.add_argument(
        "--run",
        dest="runs",
        type=parse_run,
        default=((None, None),),
        metavar="[KIND/]ID",
        help=f"one run only; without its KIND ({', '.join(_KINDS)}) it is looked for in each",
    )
    parser.add_argument(
        "--types", metavar="T,…", help="only these types; ingest.* is all that begin so"
    )
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--after", metavar="CURSOR", help="go on after this cursor")
    begin.add_argument(
        "--from",
        dest="from_",
        choices=("start", "live"),
        help="where to begin (start for a run, live for a project)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument(
        "--url",
        default=os.environ.get("TAILRACE_URL") or "http://127.0.0.1:8400",
        help="of the edge (TAILRACE_URL, else http://127.0.0.1:8400)",
    )


def parse_run(text: str) -> tuple[tuple[Kind, str], ...]:
    """Return the runs that ``kind/id`` or an id alone may mean; an id may hold slashes.

    Raises:
        argparse.ArgumentTypeError: It names no run.
    """
    named, slash, run_id = text.partition("/")
    for kind in _KINDS:
        if slash and kind == named:
            if not run_id:
                raise argparse.ArgumentTypeError(f"name a run: {text}ID")
            return ((kind, run_id),)
    if not text:
        raise argparse.ArgumentTypeError("name a run")
    return tuple((kind, text) for kind in _KINDS)


def run(arguments: argparse.Namespace) -> int:
    """Follow until the edge ends the stream, the reader of a pipe leaves, or Ctrl-C.

    Raises:
        EdgeUnreachableError: Nothing answers at the URL.
        RefusedError: The edge refuses the stream.
        BrokenPipeError: The reader has left.
    """
    streams = [_stream(arguments, kind, run_id) for kind, run_id in arguments.runs]
    asyncio.run(_follow(streams, as_json=arguments.json))
    return 0


def _stream(arguments: argparse.Namespace, kind: Kind | None, run_id: str | None) -> Stream:
    try:
        return Stream(
            arguments.url,
            arguments.project,
            kind=kind,
            run=run_id,
            types=() if arguments.types is None else arguments.types.split(","),
            from_=arguments.from_,
            after=arguments.after,
            on_gap=_show_gap,
        )
    except ParameterError as error:
        refuse: Callable[[str], NoReturn] = arguments.refuse
        refuse(str(error))


async def _follow(streams: list[Stream], *, as_json: bool) -> None:
    with _until_the_reader_leaves():
        showing = [asyncio.create_task(_show(stream, as_json=as_json)) for stream in streams]
        try:
            await asyncio.gather(*showing)
        finally:
            for task in showing:
                task.cancel()
            await asyncio.gather(*showing, return_exceptions=True)


async def _show(stream: Stream, *, as_json: bool) -> None:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    async with stream:
        async for event in stream:
            line = _json(event, stream.cursor) if as_json else tail_line(event, colour=colour)
            sys.stdout.buffer.write(f"{line}\n".encode())
            sys.stdout.buffer.flush()


def _json(event: Event, cursor: str | None) -> str:
    return orjson.dumps({**event, "cursor": cursor}).decode()


def _show_gap(gap: Gap) -> None:
    print(gap_line(gap), file=sys.stderr, flush=True)


@contextmanager
def _until_the_reader_leaves() -> Iterator[None]:
    """End the block when nobody reads the pipe on stdout any more, be there events or not.

    Raises:
        BrokenPipeError: That is so.
    """
    if not _stdout_is_a_pipe():
        yield
        return
    loop, task, pipe = asyncio.get_running_loop(), asyncio.current_task(), sys.stdout.fileno()
    assert task is not None, "called from a coroutine"
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        loop.remove_reader(pipe)
        task.cancel()

    loop.add_reader(pipe, leave)  # the end to write to is only ever readable by its error
    try:
        yield
    except asyncio.CancelledError:
        if not left:
            raise
        raise BrokenPipeError from None
    finally:
        loop.remove_reader(pipe)


def _stdout_is_a_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except OSError:  # no file at all
        return False
