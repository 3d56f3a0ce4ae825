"""What the client makes of each thing that an edge says; literal messages, no sockets."""

import orjson
import pytest

from tailrace.client.errors import DialectError, RefusedError
from tailrace.client.follower import Batch, Counters, Ended, Event, Follower, Gap, Retry

CHANNEL = "p/ingest/j1"
FIRST: Event = {"type": "ingest.job.created", "job": {"id": "j1"}}


def say(follower: Follower, t: str, **members: object) -> Batch | Gap | Retry | None:
    return follower.message(orjson.dumps({"t": t, **members}), 0.0)


def hello(follower: Follower, heartbeat_ms: object = 25_000) -> None:
    assert say(follower, "hello", v=1, session="s", node="n", heartbeat_ms=heartbeat_ms) is None


def subscribed(
    follower: Follower, cursor: str, *, resumed: bool = False, gap: object = None
) -> Batch | Gap | Retry | None:
    return say(follower, "subscribed", ch=CHANNEL, cursor=cursor, resumed=resumed, gap=gap)


def batch(
    follower: Follower, prev: str, cursor: str, *events: object, skipped: int = 0, ch: str = CHANNEL
) -> Batch | Gap | Retry | None:
    return say(follower, "batch", ch=ch, prev=prev, cursor=cursor, skipped=skipped, events=events)


def following(cursor: str = "c0") -> Follower:
    """Return a follower that is subscribed at `cursor`."""
    follower = Follower(None, renewable=False)
    hello(follower)
    assert subscribed(follower, cursor) is None
    return follower


def broken(answer: object) -> bool:
    return isinstance(answer, Retry) and answer.reason.startswith("broken chain")


# The chain


def test_batches_that_follow_each_other_move_the_cursor() -> None:
    follower = following()
    assert batch(follower, "c0", "c1", FIRST) == Batch("c0", "c1", 0, [FIRST])
    assert batch(follower, "c1", "c2", skipped=3) == Batch("c1", "c2", 3, [])
    assert follower.cursor == "c2"
    assert follower.counters == Counters(skipped=3)


def test_batch_that_does_not_follow_breaks_the_chain() -> None:
    follower = following()
    batch(follower, "c0", "c1")
    assert broken(batch(follower, "c2", "c3", FIRST, skipped=1))
    assert follower.cursor == "c1"
    assert follower.counters == Counters(chain_breaks=1)


def test_batch_of_another_channel_breaks_the_chain() -> None:
    follower = following()
    assert broken(batch(follower, "c0", "c1", FIRST, ch="p/agent/j1"))
    assert follower.cursor == "c0"


def test_batch_before_the_subscription_breaks_the_chain() -> None:
    follower = Follower("c0", renewable=False)
    assert broken(batch(follower, "c0", "c1", FIRST))


def test_gap_that_follows_is_a_link_of_the_chain() -> None:
    follower = following()
    answer = say(follower, "gap", ch=CHANNEL, prev="c0", cursor="c5", reason="retention")
    assert answer == Gap("c0", "c5", "retention")
    assert batch(follower, "c5", "c6") == Batch("c5", "c6", 0, [])
    assert follower.counters == Counters(gaps=1)


def test_gap_that_does_not_follow_breaks_the_chain() -> None:
    follower = following()
    assert broken(say(follower, "gap", ch=CHANNEL, prev="c1", cursor="c5", reason="retention"))
    assert follower.counters == Counters(chain_breaks=1)


# Resuming


def test_resume_goes_on_from_the_given_cursor() -> None:
    follower = Follower("c7", renewable=False)
    assert subscribed(follower, "c7", resumed=True) is None
    assert batch(follower, "c7", "c8", FIRST) == Batch("c7", "c8", 0, [FIRST])
    assert follower.counters == Counters()


def test_resume_with_a_gap_tells_it() -> None:
    follower = Follower("c7", renewable=False)
    assert subscribed(follower, "c9", gap={"reason": "too_far"}) == Gap("c7", "c9", "too_far")
    assert follower.cursor == "c9"
    assert follower.counters == Counters(gaps=1)


@pytest.mark.parametrize(("cursor", "resumed"), [("c9", True), ("c7", False), ("c9", False)])
def test_resume_elsewhere_without_a_word_breaks_the_chain(cursor: str, resumed: bool) -> None:  # noqa: FBT001
    follower = Follower("c7", renewable=False)
    assert broken(subscribed(follower, cursor, resumed=resumed))
    assert follower.cursor == "c7"
    assert not follower.subscribed


def test_second_connection_that_is_subscribed_is_a_reconnect() -> None:
    follower = following()
    follower.connecting(0.0)
    assert not follower.subscribed
    subscribed(follower, "c0", resumed=True)
    assert follower.subscribed
    assert follower.counters == Counters(reconnects=1)


# What else is said


def test_what_is_unknown_is_ignored() -> None:
    follower = following()
    assert say(follower, "news", anything=1) is None
    assert say(follower, "error", code="rate", message="slow down") is None
    assert follower.message(b"{}", 0.0) is None
    follower.message(
        b'{"t":"batch","ch":"p/ingest/j1","prev":"c0","cursor":"c1","skipped":0,"events":[],"x":1}',
        0.0,
    )
    assert follower.cursor == "c1"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'"hello"',
        b"\xff",
        b'{"t":"subscribed","cursor":"c0"}',
        b'{"t":"subscribed","ch":"p","cursor":"a b"}',
        b'{"t":"subscribed","ch":"p","cursor":"' + b"a" * 65 + b'"}',
        b'{"t":"batch","ch":"p","cursor":"c1","skipped":0,"events":[]}',
        b'{"t":"batch","ch":"p","prev":"c0","cursor":1,"skipped":0,"events":[]}',
        b'{"t":"batch","ch":"p","prev":"c0","cursor":"c1","skipped":-1,"events":[]}',
        b'{"t":"batch","ch":"p","prev":"c0","cursor":"c1","events":[]}',
        b'{"t":"batch","ch":"p","prev":"c0","cursor":"c1","skipped":0,"events":{}}',
        b'{"t":"batch","ch":"p","prev":"c0","cursor":"c1","skipped":0,"events":[1]}',
        b'{"t":"gap","ch":"p","prev":"c0","cursor":"c1"}',
    ],
)
def test_message_against_the_contract_is_an_error(text: bytes) -> None:
    with pytest.raises(DialectError):
        following().message(text, 0.0)


def test_gap_of_a_resume_against_the_contract_is_an_error() -> None:
    with pytest.raises(DialectError):
        subscribed(Follower("c0", renewable=False), "c1", gap=True)


# Is anybody there?


def test_silence_is_asked_after_one_heartbeat_and_given_up_after_two() -> None:
    follower = following()
    follower.heard(100.0)
    assert follower.patience(110.0) == 15.0
    assert follower.silent(125.0) == b'{"t":"ping","at":125000000}'
    assert follower.patience(130.0) == 20.0
    assert isinstance(follower.silent(150.0), Retry)


def test_any_frame_ends_the_silence() -> None:
    follower = following()
    follower.silent(25.0)
    follower.message(b'{"t":"pong","at":25000000,"now_us":1}', 26.0)
    assert follower.patience(26.0) == 25.0
    assert isinstance(follower.silent(51.0), bytes)


def test_first_message_is_waited_for_ten_seconds() -> None:
    follower = Follower(None, renewable=False)
    follower.connecting(5.0)
    assert follower.patience(5.0) == 10.0
    assert isinstance(follower.silent(15.0), Retry)


@pytest.mark.parametrize(
    ("told", "heartbeat"),
    [(1, 0.1), (500, 0.5), (10**9, 30.0), (0, 25.0), (-1, 25.0), ("soon", 25.0), (None, 25.0)],
)
def test_heartbeat_is_bounded(told: object, heartbeat: float) -> None:
    follower = Follower(None, renewable=False)
    hello(follower, told)
    assert follower.patience(0.0) == heartbeat


def test_patience_of_a_consumer_that_was_away_is_not_negative() -> None:
    assert following().patience(1000.0) == 0.0


# Ends


def test_normal_close_ends_the_stream() -> None:
    assert following().closed(1000, "") == Ended()


@pytest.mark.parametrize("code", [0, 1001, 1006, 1011, 4000, 4008, 4029, 4499, 5000])
def test_these_closes_are_retried(code: int) -> None:
    assert following().closed(code, "") == Retry(f"closed with {code}")


@pytest.mark.parametrize("code", [1009, 4500, 4501, 4503, 4506, 4999])
def test_these_closes_are_final(code: int) -> None:
    with pytest.raises(RefusedError, match="why") as caught:
        following().closed(code, "why")
    assert caught.value.code == code


def test_expired_token_is_final_only_when_there_is_no_other() -> None:
    assert Follower(None, renewable=True).closed(4001, "") == Retry("closed with 4001")
    with pytest.raises(RefusedError):
        Follower(None, renewable=False).closed(4001, "")


def test_draining_node_is_left_alone_for_as_long_as_it_says() -> None:
    assert following().closed(1012, '{"retry_after_ms":1500}') == Retry("closed with 1012", 1.5)


def test_draining_node_that_dies_before_its_close_is_left_alone_too() -> None:
    follower = following()
    assert say(follower, "drain", retry_after_ms=2500) is None
    assert follower.lost("gone") == Retry("gone", 2.5)
    assert follower.closed(1012, "") == Retry("closed with 1012", 2.5)
    follower.connecting(0.0)
    assert follower.lost("gone") == Retry("gone")


@pytest.mark.parametrize(
    "reason", ["", "{", "[]", '{"retry_after_ms":"soon"}', '{"retry_after_ms":-1}']
)
def test_reason_that_says_nothing_asks_for_nothing(reason: str) -> None:
    assert following().closed(1012, reason).asked == 0.0  # type: ignore[union-attr]


def test_cursor_of_a_close_helps_who_has_none() -> None:
    follower = Follower(None, renewable=False)
    follower.closed(4008, '{"cursor":"c5"}')
    assert follower.cursor == "c5"


def test_cursor_of_a_close_never_replaces_what_was_received() -> None:
    follower = following("c3")
    follower.closed(4008, '{"cursor":"c5"}')
    assert follower.cursor == "c3"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_these_statuses_are_retried(status: int) -> None:
    answer = Follower(None, renewable=False).refused(status, "", None)
    assert answer == Retry(f"refused with {status}")


def test_retry_after_of_a_refusal_is_kept_to() -> None:
    assert Follower(None, renewable=False).refused(503, "", "7").asked == 7.0


@pytest.mark.parametrize("header", ["", "soon", "-1", "1.5", "Fri, 27 Nov 2026 00:00:00 GMT", "²"])
def test_retry_after_that_is_no_number_asks_for_nothing(header: str) -> None:
    assert Follower(None, renewable=False).refused(503, "", header).asked == 0.0


@pytest.mark.parametrize("status", [101, 200, 400, 401, 403, 404, 406, 426])
def test_these_statuses_are_final(status: int) -> None:
    with pytest.raises(RefusedError) as caught:
        Follower(None, renewable=False).refused(status, "why", None)
    assert caught.value.code == status
