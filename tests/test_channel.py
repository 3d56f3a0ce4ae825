from tailrace.edge.channel import Channel, ChannelKey, Pending
from tailrace.edge.protocol import Types
from tailrace.schemas import Envelope, Subject

JOB_7 = Subject("ingest", "7")
RUN_7 = Subject("workflow", "7")


def _envelope(type: str, subject: Subject = JOB_7) -> Envelope:  # noqa: A002
    return Envelope(type, subject, "id", None)


def _pending(offset: int) -> Pending:
    return Pending(offset, 0, b"p", b"v", None)


def test_run_channel_wants_its_own_run_only() -> None:
    channel = Channel(ChannelKey("p", JOB_7))

    assert channel.wants(_envelope("ingest.job.updated", JOB_7))
    assert not channel.wants(_envelope("ingest.job.updated", RUN_7))
    assert not channel.wants(_envelope("ingest.job.updated", Subject("ingest", "8")))
    assert not channel.wants(_envelope("ingest.job.updated", Subject("ingest", None)))


def test_project_channel_wants_every_run_and_events_without_one() -> None:
    channel = Channel(ChannelKey("p", None))

    assert channel.wants(_envelope("ingest.job.updated", JOB_7))
    assert channel.wants(_envelope("workflow.run.updated", RUN_7))
    assert channel.wants(_envelope("shop.opened", Subject("custom", None)))


def test_types_are_wanted_exactly_or_by_prefix() -> None:
    channel = Channel(ChannelKey("p", None, Types(("agent.run.failed",), ("ingest.",))))

    assert channel.wants(_envelope("ingest.job.created"))
    assert channel.wants(_envelope("agent.run.failed"))
    assert not channel.wants(_envelope("agent.run.failed.twice"))
    assert not channel.wants(_envelope("agent.run.created"))


def test_type_and_run_must_both_match() -> None:
    channel = Channel(ChannelKey("p", JOB_7, Types(("ingest.job.failed",))))

    assert channel.wants(_envelope("ingest.job.failed", JOB_7))
    assert not channel.wants(_envelope("ingest.job.failed", RUN_7))
    assert not channel.wants(_envelope("ingest.job.created", JOB_7))


def test_made_up_types_never_fill_the_memory() -> None:
    channel = Channel(ChannelKey("p", None, Types(("wanted",))))

    for number in range(5000):
        assert not channel.wants(_envelope(f"made.up.{number}"))

    assert len(channel._matches) <= 1024
    assert channel.wants(_envelope("wanted"))


def test_take_returns_what_is_pending_once() -> None:
    channel = Channel(ChannelKey("p", None))
    channel.pending += [_pending(1), _pending(2)]

    assert channel.take() == [_pending(1), _pending(2)]
    assert channel.take() == []


def test_viewers_share_a_channel_if_nothing_tells_them_apart() -> None:
    key = ChannelKey("p", Subject("ingest", "7"), Types(("a",)))

    assert key == ChannelKey("p", JOB_7, Types(("a",)))
    others = {
        ChannelKey("q", JOB_7, Types(("a",))),
        ChannelKey("p", RUN_7, Types(("a",))),
        ChannelKey("p", None, Types(("a",))),
        ChannelKey("p", JOB_7),
    }
    assert len(others - {key}) == 4
