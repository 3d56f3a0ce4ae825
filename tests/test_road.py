"""The whole road of an event, through a real Kafka and a real edge to real connections."""

import asyncio
import signal
from contextlib import AsyncExitStack, suppress
from itertools import pairwise
from typing import Any

import aiohttp
import orjson
import pytest
from edge_harness import (
    MOMENT_TEXT,
    Client,
    EdgeProcess,
    Producer,
    channel_url,
    client_of,
    kafka_edge,
    make_event,
    many,
    numbers,
    one_of_each_type,
    producing,
    until,
)
from followers import Told, following
from structlog.testing import capture_logs

from tailrace.cli.ports import free_ports
from tailrace.schemas import Event, encode, headers_of, parse_cursor

pytestmark = pytest.mark.kafka

EVERY = "?delivery=every"
FACT = "ingest.job.created"
STREAMS = ("plain", "tailrace.v1.json", "sse")


def _event_json(event: Event) -> dict[str, Any]:
    """Return what a client must receive, put together without the codec."""
    members = {"type": event.type, "timestamp": MOMENT_TEXT, **orjson.loads(event.data)}
    if event.error_message is not None:
        members["errorMessage"] = event.error_message
    return members


async def test_every_type_arrives_exactly_as_it_was_emitted(kafka: str, topic: str) -> None:
    events = [*one_of_each_type("p"), make_event("p", "shop.till.opened", None, error="it jams")]
    async with (
        kafka_edge(kafka, topic) as edge,
        producing(kafka, topic) as producer,
        edge.watch(channel_url("p") + EVERY) as viewer,
    ):
        await producer.send(*events)

        assert await viewer.events(22) == [_event_json(event) for event in events]


async def test_each_kind_of_run_gets_its_types_and_no_others(kafka: str, topic: str) -> None:
    events = one_of_each_type("p")
    async with (
        kafka_edge(kafka, topic) as edge,
        producing(kafka, topic) as producer,
        AsyncExitStack() as stack,
    ):
        for kind, count in {"ingest": 5, "agent": 7, "workflow": 9}.items():
            viewer = await stack.enter_async_context(edge.watch(channel_url("p", kind, "r1")))
            wanted = [event for event in events if event.kind == kind]
            assert len(wanted) == count
            await producer.send(*events, make_event("p", f"{kind}.the.end", "r1"))

            got = await viewer.events(count + 1)

            assert got[:-1] == [_event_json(event) for event in wanted]
            assert got[-1]["type"] == f"{kind}.the.end"


async def test_every_project_is_in_order_whoever_writes_beside_it(kafka: str, topic: str) -> None:
    projects = [f"project {n}" for n in range(20)]
    count = 30

    async def write(producer: Producer, mine: list[str]) -> None:
        for n in range(count):
            await producer.send(*(make_event(project, n=n) for project in mine))

    async with (
        kafka_edge(kafka, topic) as edge,
        producing(kafka, topic) as producer,
        AsyncExitStack() as stack,
    ):
        viewers = [
            await stack.enter_async_context(edge.watch(channel_url(project) + EVERY))
            for project in projects
        ]
        async with asyncio.TaskGroup() as tasks:
            for writer in range(8):
                tasks.create_task(write(producer, projects[writer::8]))

        for viewer in viewers:
            assert numbers(await viewer.events(count)) == list(range(count))


async def test_cursors_of_a_project_ascend_in_its_partition(kafka: str, topic: str) -> None:
    async with (
        kafka_edge(kafka, topic) as edge,
        producing(kafka, topic) as producer,
        edge.watch(channel_url("p") + EVERY) as viewer,
    ):
        partition, offset = await producer.send_raw(b"p", None)  # a tombstone: not delivered
        await producer.send(*(make_event("p", n=n) for n in range(20)))

        positions = [parse_cursor(orjson.loads(text)["cursor"]) for text in await viewer.texts(20)]

    assert [p.offset for p in positions] == [offset + 1 + n for n in range(20)]
    assert {(p.partition, p.partitions) for p in positions} == {(partition, 4)}
    assert all(a.timestamp_ms <= b.timestamp_ms for a, b in pairwise(positions))


async def test_projects_and_kinds_with_equal_ids_never_mix(kafka: str, topic: str) -> None:
    kinds = {"ingest": "job.updated", "agent": "run.updated", "workflow": "run.updated"}
    channels = [(project, kind) for project in ("a", "b") for kind in kinds]
    async with (
        kafka_edge(kafka, topic) as edge,
        producing(kafka, topic) as producer,
        AsyncExitStack() as stack,
    ):
        viewers = [
            await stack.enter_async_context(edge.watch(channel_url(project, kind, "7") + EVERY))
            for project, kind in channels
        ]
        for _ in range(3):
            for project, kind in channels:
                event_type = f"{kind}.{kinds[kind]}"
                data = f'{{"of":"{project} {kind}"}}'
                await producer.send(make_event(project, event_type, "7", data=data))

        for (project, kind), viewer in zip(channels, viewers, strict=True):
            of = [event["of"] for event in await viewer.events(3)]
            assert of == [f"{project} {kind}"] * 3


async def test_200_viewers_get_everything_byte_for_byte_alike(kafka: str, topic: str) -> None:
    async with (
        kafka_edge(kafka, topic) as edge,
        producing(kafka, topic) as producer,
        many(edge, channel_url("p", "ingest", "j1") + EVERY, 200) as viewers,
    ):
        await producer.send(*(make_event("p", n=n) for n in range(25)))

        first, *others = [await viewer.texts(25) for viewer in viewers]

        assert [orjson.loads(text)["job"]["n"] for text in first] == list(range(25))
        assert all(other == first for other in others)
        metrics = await edge.metrics()
        assert metrics["tailrace_connections{transport=websocket}"] == 200
        assert metrics["tailrace_channels"] == 1
        assert metrics["tailrace_records_decoded_total"] == 25
        assert metrics["tailrace_deliveries_total"] == 200 * 25


async def test_project_that_nobody_watches_is_never_decoded(kafka: str, topic: str) -> None:
    async with (
        kafka_edge(kafka, topic) as edge,
        producing(kafka, topic) as producer,
        edge.watch(channel_url("watched")) as viewer,
    ):
        await producer.send(*(make_event("elsewhere", n=n) for n in range(50)))
        # The last one shares no partition with the others for certain: ask until all are consumed.
        await producer.send(make_event("watched"))
        await viewer.event()
        metrics = await _consumed(edge, 51)

    assert metrics["tailrace_records_decoded_total"] == 1


async def _consumed(edge: Client, records: int) -> dict[str, float]:
    """Return the metrics once the node has consumed this many records."""
    async with asyncio.timeout(20):
        while True:
            metrics = await edge.metrics()
            if metrics["tailrace_records_total"] >= records:
                return metrics


def _bad_records() -> list[tuple[str, bytes | None, bytes]]:
    good = encode(make_event("p"))
    return [
        ("no_key", None, good),
        ("undecodable", b"p", b"garbage"),
        ("undecodable", b"p", b""),
        ("undecodable", b"p", good[:-5]),
        ("undecodable", b"p", b"\x00\x00\x00\x00\x01" + b"\xff" * 40),
        ("data_not_object", b"p", encode(make_event("p", data="[]"))),
        ("data_not_object", b"p", encode(make_event("p", data='{"job":'))),
        ("project_mismatch", b"p", encode(make_event("q"))),
    ]


@pytest.mark.parametrize("with_headers", [True, False], ids=["headers", "no headers"])
async def test_bad_records_are_counted_logged_and_skipped(
    kafka: str, topic: str, *, with_headers: bool
) -> None:
    places = []
    with capture_logs() as lines:
        async with (
            kafka_edge(kafka, topic) as edge,
            producing(kafka, topic) as producer,
            edge.watch(channel_url("p") + EVERY) as viewer,
        ):
            for n, (reason, key, value) in enumerate(_bad_records()):
                await producer.send(make_event("p", n=n))
                headers = headers_of(make_event("p")) if with_headers else []  # of its own id
                partition, offset = await producer.send_raw(key, value, headers=headers)
                places.append((reason, partition, offset))
            await producer.send(make_event("p", n=8))

            assert numbers(await viewer.events(9)) == list(range(9))
            metrics = await _consumed(edge, 17)

    skipped = {name: n for name, n in metrics.items() if "skipped" in name}
    assert skipped == {
        "tailrace_records_skipped_total{reason=no_key}": 1,
        "tailrace_records_skipped_total{reason=undecodable}": 4,
        "tailrace_records_skipped_total{reason=data_not_object}": 2,
        "tailrace_records_skipped_total{reason=project_mismatch}": 1,
    }
    logged = [line for line in lines if line["event"] == "record skipped"]
    assert {line["topic"] for line in logged} == {topic}
    found = [
        (str(line["error"]).partition(":")[0], line["partition"], line["offset"]) for line in logged
    ]
    assert sorted(found) == sorted(places)


async def test_record_without_headers_arrives_like_any_other(kafka: str, topic: str) -> None:
    async with (
        kafka_edge(kafka, topic) as edge,
        producing(kafka, topic) as producer,
        edge.watch(channel_url("p", "agent", "r1")) as viewer,
    ):
        foreign = make_event("p", "agent.run.updated", "r1", n=1)
        await producer.send(foreign, make_event("p", "agent.run.updated", "r2"), headers=False)
        await producer.send(make_event("p", "agent.run.completed", "r1", n=2))

        first, second = await viewer.events(2)

    assert first == _event_json(foreign)
    assert second["run"] == {"id": "r1", "n": 2}


async def test_event_of_900_kb_arrives_whole(kafka: str, topic: str) -> None:
    content = "é" * 450_000
    event = make_event("p", "agent.message.appended", data=f'{{"message":{{"c":"{content}"}}}}')
    async with (
        kafka_edge(kafka, topic) as edge,
        producing(kafka, topic) as producer,
        edge.watch(channel_url("p") + EVERY) as viewer,
    ):
        await producer.send(event, make_event("p", n=2))

        first, second = await viewer.events(2)

    assert first["message"] == {"c": content}
    assert second["job"]["n"] == 2


async def test_burst_of_megabytes_reaches_a_viewer_that_reads(kafka: str, topic: str) -> None:
    padding = "x" * 10_000
    events = [
        make_event("p", n=n, data=f'{{"job":{{"n":{n},"x":"{padding}"}}}}') for n in range(600)
    ]
    async with (
        kafka_edge(kafka, topic) as edge,
        producing(kafka, topic) as producer,
        edge.watch(channel_url("p") + EVERY) as viewer,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(producer.send(*events))

        assert numbers(await viewer.events(600)) == list(range(600))


class Faithful:
    """A viewer that comes back with its cursor like a browser, until the event of a number."""

    def __init__(self, client: Client, dialect: str, last: int) -> None:
        self._client = client
        self._dialect = dialect
        self._last = last
        self.told: list[Told] = []
        self.connections = 0

    @property
    def ended(self) -> bool:
        return bool(self.told) and self.told[-1].number == self._last

    async def run(self) -> None:
        cursor: str | None = None
        while not self.ended:
            await self._client.ready()
            where = {"from_": "start"} if cursor is None else {"after": cursor}
            with suppress(AssertionError, aiohttp.ClientError):  # it went away
                path = channel_url("p")
                async with following(self._dialect, self._client, path, **where) as viewer:
                    self.connections += 1
                    try:
                        while not self.ended:
                            self.told.append(await viewer.next())
                            cursor = viewer.cursor
                    finally:
                        cursor = viewer.cursor
                        self.told += viewer.told


LAST = 1_000_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_edge_restarted_under_load_loses_and_repeats_nothing(
    kafka: str, topic: str, number: signal.Signals
) -> None:
    [port] = free_ports(1)
    produced = 0
    stop = asyncio.Event()

    async def load(producer: Producer) -> None:
        nonlocal produced
        while not stop.is_set():
            await producer.send(make_event("p", FACT, n=produced))
            produced += 1

    async with (
        EdgeProcess(kafka, topic, port) as process,
        client_of(process.url) as client,
        producing(kafka, topic) as producer,
        asyncio.timeout(40),
        asyncio.TaskGroup() as tasks,
    ):
        loading = tasks.create_task(load(producer))
        viewers = [Faithful(client, dialect, LAST) for dialect in STREAMS for _ in range(2)]
        for viewer in viewers:
            tasks.create_task(viewer.run())

        async def all_beyond(events: int) -> bool:
            return all(len(viewer.told) > events for viewer in viewers)

        await until(lambda: all_beyond(0))
        code = await process.end(number)
        before = produced
        await process.start()
        await until(lambda: all_beyond(before))
        stop.set()
        await loading
        await producer.send(make_event("p", FACT, n=LAST))

    assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    for viewer in viewers:
        assert viewer.connections >= 2
        assert [told.number for told in viewer.told] == [*range(produced), LAST]
