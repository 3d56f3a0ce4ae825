"""The load generator against a scripted server: it must see each fault, and only that."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.compile import compiled
from bench.load import FAULTS, Generator, Group, generator

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="install a C compiler: cc")

PROJECT = 7
LATER = 2**60
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def frame(text: str, opcode: int = 0x81) -> bytes:
    payload = text.encode()
    size = len(payload)
    head = bytes([size]) if size < 126 else bytes([126]) + size.to_bytes(2, "big")
    return bytes([opcode]) + head + payload


def event(n: int, f: int, *, project: int = PROJECT, cursor: str = "", due: int = 1) -> str:
    tail = f',"cursor":"{cursor}"' if cursor else ""
    return f'{{"type":"t","job":{{"due":{due},"p":{project},"n":{n},"f":{f}}}{tail}}}'


def batch(prev: str, cursor: str, *events: str, skipped: int = 0) -> str:
    listed = ",".join(events)
    return (
        f'{{"t":"batch","ch":"p7","prev":"{prev}","cursor":"{cursor}",'
        f'"skipped":{skipped},"events":[{listed}]}}'
    )


SUBSCRIBED = '{"t":"subscribed","ch":"p7","cursor":"c0","resumed":false,"gap":null}'


class Script:
    """A server that says the same to everyone, and notes what it hears."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = list(pieces)
        self.requests: list[bytes] = []
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        for piece in self.pieces:
            writer.write(piece)
            await writer.drain()
        try:
            while data := await reader.read(1000):
                self.heard.put_nowait(data)
        except ConnectionResetError:
            pass
        self.heard.put_nowait(b"")  # it has gone
        writer.close()


@asynccontextmanager
async def watching(
    *pieces: bytes, dialect: str = "plain", flags: str = ""
) -> AsyncIterator[tuple[Generator, Script]]:
    """Give a generator whose only viewer hears `pieces`, and the script of the server."""
    script = Script([ANSWER, *pieces])
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, generator() as load:
        await load.add(Group("g", [(1, PROJECT, f"ws://127.0.0.1:{port}/x")], dialect, flags))
        await load.open("g")
        yield load, script


async def report(*pieces: bytes, upto: tuple[int, int], dialect: str = "plain") -> dict[str, Any]:
    """Return what is reported of the viewer once it has fact and event `upto`."""
    async with watching(*pieces, dialect=dialect) as (load, _):
        await load.command("expect", *upto)
        assert await load.heard("complete", 10), "everything was sent"
        return dict((await load.end())["groups"]["g"])


def faults(told: dict[str, Any]) -> dict[str, int]:
    return {name: told[name] for name in FAULTS if told[name]}


async def test_events_in_order_are_counted_without_a_fault() -> None:
    told = await report(*(frame(event(n, n)) for n in (1, 2, 3)), upto=(3, 3))
    assert (told["events"], told["facts"], faults(told)) == (3, 3, {})


async def test_frames_are_read_however_they_are_cut() -> None:
    whole = b"".join(frame(event(n, n) + " " * (60 * n)) for n in range(1, 6))
    told = await report(*(whole[i : i + 7] for i in range(0, len(whole), 7)), upto=(5, 5))
    assert (told["events"], told["frames"], faults(told)) == (5, 5, {})


async def test_states_may_be_replaced_but_facts_may_not() -> None:
    told = await report(*(frame(event(*nf)) for nf in ((1, 1), (5, 0), (9, 2))), upto=(2, 9))
    assert faults(told) == {}
    told = await report(*(frame(event(*nf)) for nf in ((1, 1), (9, 4))), upto=(4, 9))
    assert faults(told) == {"lost": 2}


@pytest.mark.parametrize(
    ("wrong", "seen"),
    [
        (event(2, 2), "duplicates"),
        (event(1, 1), "disordered"),
        (event(3, 3, project=8), "foreign"),
        ('{"due":x}', "broken"),
        ('{"type":"stream.gap","reason":"retention","cursor":"c"}', "gaps"),
    ],
)
async def test_each_fault_is_seen_as_what_it_is(wrong: str, seen: str) -> None:
    texts = (event(1, 1), event(2, 2), wrong, event(3, 3))
    assert faults(await report(*map(frame, texts), upto=(3, 3))) == {seen: 1}


async def test_facts_that_never_came_are_missing() -> None:
    async with watching(frame(event(1, 1))) as (load, _):
        await load.command("expect", 3, 3)
        assert await load.heard("complete", 0.2) is None
        assert faults((await load.end())["groups"]["g"]) == {"missing": 2}


async def test_a_fragmented_frame_is_broken() -> None:
    async with watching(frame(event(1, 1), opcode=0x01)) as (load, script):
        assert await script.heard.get() == b"", "the viewer left"
        told = (await load.end())["groups"]["g"]
        assert told["broken"] == 1


async def test_batches_chain_and_count_what_they_skipped() -> None:
    texts = (
        SUBSCRIBED,
        batch("c0", "c1", event(1, 1), event(4, 0), skipped=2),
        batch("c1", "c2"),
        batch("c2", "c3", event(5, 2)),
    )
    told = await report(*map(frame, texts), upto=(2, 5), dialect="v1")
    assert (told["events"], told["skipped"], faults(told)) == (3, 2, {})


async def test_a_broken_chain_is_seen() -> None:
    texts = (SUBSCRIBED, batch("c0", "c1", event(1, 1)), batch("c9", "c2", event(2, 2)))
    told = await report(*map(frame, texts), upto=(2, 2), dialect="v1")
    assert faults(told) == {"broken_chain": 1}


async def test_socketio_is_joined_and_read() -> None:
    opening = [frame('0{"sid":"s"}'), frame("40"), frame("2")]
    async with watching(*opening, frame(f'42["event",{event(1, 1)}]'), dialect="sio") as (load, s):
        await load.command("expect", 1, 1)
        assert await load.heard("complete", 10)
        said = b""
        while said.count(b"\x81") < 2:
            said += await s.heard.get()
        assert said == b"\x81\x82\0\0\0\x0040" + b"\x81\x81\0\0\0\x003"
        assert faults((await load.end())["groups"]["g"]) == {}


async def test_a_ping_is_answered_with_its_own_payload() -> None:
    async with watching(frame("are you there", opcode=0x89)) as (_, script):
        assert await script.heard.get() == b"\x8a\x8d\0\0\0\0are you there"


async def test_a_viewer_comes_back_with_its_last_cursor() -> None:
    texts = [event(1, 1, cursor="first"), event(2, 2, cursor="last-one_2")]
    async with watching(*map(frame, texts), flags="resume") as (load, script):
        await load.command("expect", 2, 2)
        assert await load.heard("complete", 10)
        script.pieces = [ANSWER, frame(event(3, 3, due=LATER))]
        await load.command("drop", "g", 0, 10)
        assert await load.heard("live", 10)
        assert script.requests[1].startswith(b"GET /x?after=last-one_2 HTTP/1.1\r\n")
        told = (await load.end())["groups"]["g"]
        assert (told["resumed"], told["events"], faults(told)) == (1, 3, {})


async def test_a_refused_handshake_ends_the_run_with_its_status() -> None:
    script = Script([b"HTTP/1.1 503 Service Unavailable\r\n\r\n"])
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server, generator() as load:
        await load.add(Group("g", [(1, PROJECT, url)]))
        with pytest.raises(SystemExit, match="503 Service Unavailable"):
            await load.open("g")


def test_without_a_compiler_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "new.c"
    source.write_text("int main(void) { return 0; }\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(SystemExit, match="no C compiler on PATH: install one"):
        compiled(source)
