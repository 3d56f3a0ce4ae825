from collections.abc import AsyncIterator

import orjson
import pytest
from edge_harness import MemoryEdge, make_event, memory_edge, numbers, record_of
from shell_viewers import JOB, PROJECT, V1, Message, chained, metric, talk

from tailrace.edge.conversation import MAX_SUBSCRIPTIONS
from tailrace.schemas import format_cursor, parse_cursor

FACT = "ingest.job.completed"


@pytest.fixture
async def edge() -> AsyncIterator[MemoryEdge]:
    async with memory_edge(heartbeat_ms=12_345) as edge:
        yield edge


def _put(edge: MemoryEdge, *ns: int, project: str = "p1") -> None:
    edge.consumer.put(*(record_of(make_event(project, FACT, n=n)) for n in ns))


# hello


@pytest.mark.parametrize("path", [JOB, PROJECT, "/api/stream"])
async def test_hello_is_the_first_message_everywhere(edge: MemoryEdge, path: str) -> None:
    async with talk(edge, path, greeted=False) as viewer:
        hello = await viewer.expect("hello")

    assert set(hello) == {"v", "session", "node", "heartbeat_ms"}
    assert (hello["v"], hello["node"], hello["heartbeat_ms"]) == (1, edge.node.name, 12_345)


async def test_each_session_has_a_name_of_its_own(edge: MemoryEdge) -> None:
    names = set()
    for _ in range(3):
        async with talk(edge, greeted=False) as viewer:
            names.add((await viewer.expect("hello"))["session"])

    assert len(names) == 3


async def test_multiplexed_url_follows_nothing_by_itself(edge: MemoryEdge) -> None:
    async with talk(edge) as viewer:
        _put(edge, 1)
        await metric(edge, "tailrace_records_total", 1)

        await viewer.nothing_more()
        assert (await edge.metrics())["tailrace_channels"] == 0


# subscribed


async def test_channel_url_is_subscribed_at_once_and_without_an_id(edge: MemoryEdge) -> None:
    async with talk(edge, JOB) as viewer:
        subscribed = await viewer.expect("subscribed")

        assert set(subscribed) == {"ch", "cursor", "resumed", "gap"}
        assert subscribed["ch"] == "p1/ingest/j1"
        assert (subscribed["resumed"], subscribed["gap"]) == (False, None)
        _put(edge, 1)
        batch = await viewer.expect("batch")
        assert set(batch) == {"ch", "prev", "cursor", "skipped", "events"}
        assert batch["ch"] == subscribed["ch"]
        assert batch["prev"] == subscribed["cursor"]
        assert (numbers(batch["events"]), batch["skipped"]) == ([1], 0)
        assert set(batch["events"][0]) == {"type", "timestamp", "job"}


@pytest.mark.parametrize("number", [1, 0, "one", -7, 1.5])
async def test_answer_bears_the_id_of_its_command(edge: MemoryEdge, number: object) -> None:
    async with talk(edge) as viewer:
        subscribed = await viewer.ask(t="subscribe", id=number, project="p1")
        ended = await viewer.ask(t="unsubscribe", id=number, ch="p1")
        failed = await viewer.ask(t="unsubscribe", id=number, ch="p1")

    assert [subscribed["t"], ended["t"], failed["t"]] == ["subscribed", "unsubscribed", "error"]
    assert [subscribed["id"], ended["id"], failed["id"]] == [number] * 3


async def test_command_without_an_id_is_answered_without_one(edge: MemoryEdge) -> None:
    async with talk(edge) as viewer:
        assert "id" not in await viewer.ask(t="subscribe", project="p1")
        assert "id" not in await viewer.ask(t="subscribe", project="p1")
        assert "id" not in await viewer.ask(t="unsubscribe", ch="p1")


@pytest.mark.parametrize("members", [{"id": [1]}, {"id": {"a": 1}}, {"at": [[1]]}])
async def test_only_plain_values_are_echoed(edge: MemoryEdge, members: dict[str, object]) -> None:
    async with talk(edge) as viewer:
        answer = await viewer.ask(t="ping", **members)

        assert (answer["t"], answer["code"]) == ("error", "bad_request")
        assert answer["message"].startswith(f"{next(iter(members))}: ")
        assert "id" not in answer
        await viewer.nothing_more()


@pytest.mark.parametrize("member", ["id", "at"])
async def test_deeply_nested_json_costs_an_error_only(edge: MemoryEdge, member: str) -> None:
    async with talk(edge) as viewer:
        deep = "[" * 300 + "]" * 300
        await viewer.ws.send_str(f'{{"t":"ping","{member}":{deep}}}')

        assert (await viewer.message())["t"] == "error"
        await viewer.nothing_more()


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "p1"),
        ({"kind": "ingest", "run": "j1"}, "p1/ingest/j1"),
        ({"kind": "custom", "run": "a/b c"}, "p1/custom/a%2Fb%20c"),
        ({"types": ["*"], "delivery": "latest", "window": 40}, "p1"),
        ({"types": ["ingest.*", "*"]}, "p1"),
        ({"types": ["b.c", "a.*", "b.c"]}, "p1?types=a.*,b.c"),
        ({"window": 0, "types": ["a"], "delivery": "every"}, "p1?delivery=every&types=a&window=0"),
        ({"from": "start"}, "p1"),
        ({"unknown": [1]}, "p1"),
    ],
)
async def test_ch_is_the_canonical_name(
    edge: MemoryEdge, asked: dict[str, object], name: str
) -> None:
    async with talk(edge) as viewer:
        assert (await viewer.ask(t="subscribe", project="p1", **asked))["ch"] == name


async def test_url_and_command_name_the_same_channel(edge: MemoryEdge) -> None:
    query = "?window=20&types=ingest.*,a&delivery=every"
    async with talk(edge, JOB + query) as one, talk(edge) as other:
        asked = await one.expect("subscribed")
        answer = await other.ask(
            t="subscribe",
            project="p1",
            kind="ingest",
            run="j1",
            types=["a", "ingest.*"],
            window=20,
            delivery="every",
        )

        assert (
            answer["ch"] == asked["ch"] == "p1/ingest/j1?delivery=every&types=a,ingest.*&window=20"
        )
        assert len(edge.node.hub) == 1
        _put(edge, 1)
        assert await one.viewer.text() == await other.viewer.text()


async def test_channels_of_one_connection_are_told_apart(edge: MemoryEdge) -> None:
    async with talk(edge) as viewer:
        for project in ("p1", "p2"):
            await viewer.ask(t="subscribe", project=project)
        _put(edge, 1, project="p2")
        _put(edge, 2, project="p1")
        _put(edge, 3, project="p3")

        batches = [await viewer.expect("batch") for _ in range(2)]
        await viewer.nothing_more()

    assert {(b["ch"], *numbers(b["events"])) for b in batches} == {("p2", 1), ("p1", 2)}


# Where it begins


async def test_subscription_resumes_after_its_cursor(edge: MemoryEdge) -> None:
    async with talk(edge, JOB) as viewer:
        await viewer.expect("subscribed")
        _put(edge, 1)
        cursor = (await viewer.expect("batch"))["cursor"]
    _put(edge, 2, 3)
    await metric(edge, "tailrace_records_total", 3)

    async with talk(edge) as viewer:
        subscribed = await viewer.ask(
            t="subscribe", project="p1", kind="ingest", run="j1", after=cursor
        )
        assert (subscribed["cursor"], subscribed["resumed"]) == (cursor, True)
        assert subscribed["gap"] is None
        batch = await viewer.expect("batch")
        assert (batch["prev"], numbers(batch["events"])) == (cursor, [2, 3])


async def test_gap_at_the_beginning_is_told_in_subscribed(edge: MemoryEdge) -> None:
    _put(edge, 1)
    await metric(edge, "tailrace_records_total", 1)
    async with talk(edge, f"{JOB}?after=no-cursor") as viewer:
        subscribed = await viewer.expect("subscribed")

        assert (subscribed["gap"], subscribed["resumed"]) == ({"reason": "invalid"}, False)
        batch = await viewer.expect("batch")
        assert (batch["prev"], numbers(batch["events"])) == (subscribed["cursor"], [1])


@pytest.mark.parametrize(
    ("path", "seen"),
    [(JOB, [1, 2]), (PROJECT, []), (JOB + "?from=live", []), (PROJECT + "?from=start", [1, 2])],
)
async def test_what_was_before_is_replayed_from_start_only(
    edge: MemoryEdge, path: str, seen: list[int]
) -> None:
    _put(edge, 1, 2)
    await metric(edge, "tailrace_records_total", 2)
    async with talk(edge, path) as viewer:
        await viewer.expect("subscribed")
        if seen:
            assert numbers((await viewer.expect("batch"))["events"]) == seen

        await viewer.nothing_more()


async def test_commands_know_the_same_defaults_as_urls(edge: MemoryEdge) -> None:
    _put(edge, 1)
    await metric(edge, "tailrace_records_total", 1)
    async with talk(edge) as viewer:
        await viewer.ask(t="subscribe", project="p1")
        await viewer.nothing_more()
        await viewer.ask(t="subscribe", project="p1", kind="ingest", run="j1")
        assert numbers((await viewer.expect("batch"))["events"]) == [1]


async def test_gap_in_the_middle_is_told_in_the_chain(edge: MemoryEdge) -> None:
    async with talk(edge, PROJECT) as viewer:
        begun = (await viewer.expect("subscribed"))["cursor"]
        _put(edge, 1)
        batch = await viewer.expect("batch")

        edge.consumer.log.delete()
        edge.consumer.log.create(1)

        gap = await viewer.expect("gap")
        assert set(gap) == {"ch", "prev", "cursor", "reason"}
        assert (gap["ch"], gap["reason"]) == ("p1", "reset")
        _put(edge, 2)
        after = await viewer.expect("batch")
        chained([batch, gap, after], begun)
        assert numbers(after["events"]) == [2]


async def test_events_and_skipped_are_all_records_of_the_channel(edge: MemoryEdge) -> None:
    async with talk(edge, JOB + "?types=ingest.*&window=100") as viewer:
        begun = (await viewer.expect("subscribed"))["cursor"]
        for first in range(0, 300, 30):
            records = (record_of(make_event(n=n)) for n in range(first, first + 30))
            edge.consumer.put(*records, record_of(make_event(type="workflow.node.started", n=-1)))

        batches: list[Message] = []
        while sum(len(b["events"]) + b["skipped"] for b in batches) < 300:
            batches.append(await viewer.expect("batch"))

    chained(batches, begun)
    assert sum(len(b["events"]) + b["skipped"] for b in batches) == 300
    assert numbers(batches[-1]["events"]) == [299]
    assert len(batches) < 10


async def test_idle_channel_moves_its_cursor_by_an_empty_batch() -> None:
    async with memory_edge(heartbeat_ms=1000) as edge, talk(edge, JOB) as viewer:
        begun = (await viewer.expect("subscribed"))["cursor"]
        _put(edge, 1, project="other")

        batch = await viewer.expect("batch")

    assert (batch["events"], batch["skipped"], batch["prev"]) == ([], 0, begun)
    assert parse_cursor(batch["cursor"]).offset == 0


# unsubscribe


async def test_unsubscribed_channel_says_nothing_more_and_the_others_go_on(
    edge: MemoryEdge,
) -> None:
    async with talk(edge) as viewer:
        for project in ("p1", "p2"):
            await viewer.ask(t="subscribe", project=project)

        answer = await viewer.ask(t="unsubscribe", id=9, ch="p1")

        assert answer == {"t": "unsubscribed", "id": 9, "ch": "p1"}
        assert (await edge.metrics())["tailrace_channels"] == 1
        _put(edge, 1, project="p1")
        _put(edge, 2, project="p2")
        assert (await viewer.expect("batch"))["ch"] == "p2"
        await viewer.nothing_more()


async def test_what_is_unsubscribed_may_be_subscribed_again(edge: MemoryEdge) -> None:
    async with talk(edge) as viewer:
        for _ in range(3):
            assert (await viewer.ask(t="subscribe", project="p1"))["t"] == "subscribed"
            assert (await viewer.ask(t="unsubscribe", ch="p1"))["t"] == "unsubscribed"


async def test_channel_of_the_url_may_be_left_and_others_joined(edge: MemoryEdge) -> None:
    async with talk(edge, JOB) as viewer:
        name = (await viewer.expect("subscribed"))["ch"]

        assert (await viewer.ask(t="unsubscribe", ch=name))["t"] == "unsubscribed"
        assert (await viewer.ask(t="subscribe", project="p2"))["ch"] == "p2"


# error


@pytest.mark.parametrize("text", ["", "{", "nonsense", '{"t":"ping"', "NaN", '"\\ud800"'])
async def test_what_is_not_json_costs_an_error(edge: MemoryEdge, text: str) -> None:
    async with talk(edge) as viewer:
        await viewer.ws.send_str(text)

        error = await viewer.expect("error")
        assert set(error) == {"code", "message"}
        assert error["code"] == "bad_json"
        await viewer.nothing_more()


@pytest.mark.parametrize("text", ["1", "[]", "null", '"subscribe"', "true"])
async def test_json_that_is_no_object_costs_an_error(edge: MemoryEdge, text: str) -> None:
    async with talk(edge) as viewer:
        await viewer.ws.send_str(text)

        assert (await viewer.expect("error"))["code"] == "bad_request"
        await viewer.nothing_more()


@pytest.mark.parametrize(
    "members", [{}, {"t": "auth", "token": "x"}, {"t": "dance"}, {"t": None}, {"t": ["ping"]}]
)
async def test_unknown_command_is_ignored(edge: MemoryEdge, members: dict[str, object]) -> None:
    async with talk(edge) as viewer:
        await viewer.say(**members)

        await viewer.nothing_more()


async def test_bytes_are_ignored(edge: MemoryEdge) -> None:
    async with talk(edge) as viewer:
        await viewer.ws.send_bytes(b'{"t":"subscribe","project":"p1"}')

        await viewer.nothing_more()


@pytest.mark.parametrize(
    ("asked", "member"),
    [
        ({"project": None}, "project"),
        ({"project": ""}, "project"),
        ({"project": 1}, "project"),
        ({"kind": "ingest"}, "run"),
        ({"run": "j1"}, "kind"),
        ({"kind": "ingest", "run": ""}, "run"),
        ({"kind": "dance", "run": "j1"}, "kind"),
        ({"kind": 1, "run": "j1"}, "kind"),
        ({"types": "ingest.*"}, "types"),
        ({"types": [1]}, "types"),
        ({"types": []}, "types"),
        ({"types": ["A"]}, "types"),
        ({"types": ["a"] * 65}, "types"),
        ({"after": 1}, "after"),
        ({"from": "end"}, "from"),
        ({"delivery": "some"}, "delivery"),
        ({"delivery": True}, "delivery"),
        ({"window": 41}, "window"),
        ({"window": "40"}, "window"),
        ({"window": True}, "window"),
    ],
)
async def test_bad_member_is_refused_by_its_name(
    edge: MemoryEdge, asked: dict[str, object], member: str
) -> None:
    async with talk(edge) as viewer:
        error = await viewer.ask(**{"t": "subscribe", "id": 4, "project": "p1", **asked})

        assert (error["t"], error["id"], error["code"]) == ("error", 4, "bad_request")
        assert error["message"].startswith(f"{member}: ")
        assert (await viewer.ask(t="subscribe", project="p1"))["t"] == "subscribed"


async def test_channel_can_be_subscribed_once_only(edge: MemoryEdge) -> None:
    async with talk(edge, JOB) as viewer:
        await viewer.expect("subscribed")

        error = await viewer.ask(
            t="subscribe", id=1, project="p1", kind="ingest", run="j1", window=40
        )

        assert (error["t"], error["id"], error["code"]) == ("error", 1, "bad_request")
        assert "p1/ingest/j1 is subscribed already" in error["message"]
        _put(edge, 1)
        assert numbers((await viewer.expect("batch"))["events"]) == [1]
        await viewer.nothing_more()


async def test_one_channel_too_many_is_refused_and_has_room_when_one_was_left(
    edge: MemoryEdge,
) -> None:
    async with talk(edge) as viewer:
        for n in range(MAX_SUBSCRIPTIONS):
            assert (await viewer.ask(t="subscribe", project=f"p{n}"))["t"] == "subscribed"

        error = await viewer.ask(t="subscribe", id="more", project="more")

        assert (error["t"], error["id"], error["code"]) == ("error", "more", "bad_request")
        assert str(MAX_SUBSCRIPTIONS) in error["message"]
        assert len(edge.node.hub) == MAX_SUBSCRIPTIONS
        await viewer.ask(t="unsubscribe", ch="p7")
        assert (await viewer.ask(t="subscribe", project="more"))["t"] == "subscribed"


@pytest.mark.parametrize("name", [None, 1, "", "p2", ["p1"], "p1/ingest/j1"])
async def test_only_what_is_subscribed_can_be_unsubscribed(edge: MemoryEdge, name: object) -> None:
    async with talk(edge, PROJECT) as viewer:
        await viewer.expect("subscribed")

        error = await viewer.ask(t="unsubscribe", id=3, ch=name)

        assert (error["t"], error["id"]) == ("error", 3)
        assert error["message"].startswith("ch: ")


async def test_kafka_that_does_not_answer_costs_an_error_and_not_the_connection(
    edge: MemoryEdge,
) -> None:
    _put(edge, 1)
    async with talk(edge, JOB) as viewer:
        await viewer.expect("subscribed")
        cursor = (await viewer.expect("batch"))["cursor"]
    ahead = _ahead(cursor)
    edge.consumer.log.unavailable = True

    async with talk(edge) as viewer:
        error = await viewer.ask(t="subscribe", id=1, project="p1", after=ahead)

        assert (error["t"], error["id"], error["code"]) == ("error", 1, "unavailable")
        edge.consumer.log.unavailable = False
        assert (await viewer.ask(t="subscribe", project="p1"))["t"] == "subscribed"


def _ahead(cursor: str) -> str:
    """Return a cursor of the same log that this node has not reached: Kafka must be asked."""
    position = parse_cursor(cursor)
    return format_cursor(position._replace(offset=position.offset + 10))


# ping


@pytest.mark.parametrize("at", [None, 0, 1.5, "now", True, 2**63])
async def test_pong_echoes_at_and_tells_the_time(edge: MemoryEdge, at: object) -> None:
    async with talk(edge) as viewer:
        first = await viewer.ask(t="ping", at=at)
        second = await viewer.ask(t="ping", at=at)

    assert set(first) == {"t", "at", "now_us"}
    assert (first["t"], first["at"]) == ("pong", at)
    assert 1_600_000_000_000_000 < first["now_us"] <= second["now_us"]


# the end


async def test_leaving_forgets_everything_that_was_subscribed(edge: MemoryEdge) -> None:
    async with talk(edge) as viewer:
        for n in range(20):
            await viewer.ask(t="subscribe", project=f"p{n}")
        assert len(edge.node.hub) == 20

    await edge.connections(0)
    assert len(edge.node.hub) == 0


async def test_drain_is_told_before_the_close(edge: MemoryEdge) -> None:
    async with talk(edge, JOB) as viewer:
        await viewer.expect("subscribed")

        await edge.node.drain()

        drain = await viewer.expect("drain")
        assert set(drain) == {"retry_after_ms"}
        code, reason = await viewer.viewer.closed()
        assert (code, orjson.loads(reason or "")) == (1012, drain)


async def test_nothing_is_said_after_the_drain(edge: MemoryEdge) -> None:
    async with talk(edge, JOB) as viewer:
        await viewer.expect("subscribed")
        await edge.node.drain()
        _put(edge, 1)

        await viewer.expect("drain")
        assert (await viewer.viewer.closed()).code == 1012


async def test_channel_url_is_the_same_in_both_dialects(edge: MemoryEdge) -> None:
    async with talk(edge, JOB) as spoken, edge.watch(JOB) as plain:
        await spoken.expect("subscribed")
        _put(edge, 1)

        batch = await spoken.expect("batch")
        event = orjson.loads(await plain.text())

    assert event.pop("cursor") == batch["cursor"]
    assert [event] == batch["events"]
    assert spoken.ws.protocol == V1
