import pytest
from edge_viewers import Stage, key_of, place

from tailrace.edge.chunk import Chunk, Rendered
from tailrace.edge.dialect import Break, Dialect, frame_of, gap_frame
from tailrace.edge.protocol import Gap
from tailrace.edge.session import Allowance, Session, Subscription


class Socket:
    def __init__(self, *, waiting: int = 0, error: Exception | None = None) -> None:
        self.waiting = waiting
        self.error = error
        self.written: list[bytes] = []
        self.closed: list[tuple[int, bytes]] = []

    def session(self, max_buffered: int = 100) -> Session:
        return Session(
            self.write,
            lambda: self.waiting,
            lambda code, reason: self.closed.append((code, reason)),
            max_buffered=max_buffered,
        )

    def write(self, frame: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.written.append(frame)


def subscription(session: Session, dialect: Dialect = Dialect.V1) -> Subscription:
    channel = Stage().hub.open(key_of(), 2, 0.0)
    return Subscription(session, dialect, channel, place(-1))


CHUNK = Chunk("p1", place(-1), place(3), [Rendered(2, 1002, 0, b'{"type":"a.b"}')], 1)


def test_close_is_begun_once_and_nothing_is_written_after_it() -> None:
    socket = Socket()
    session = socket.session()
    assert session.write(b"a")
    session.close(1012, b"x")
    session.close(1000)
    assert not session.write(b"b")
    assert (socket.written, socket.closed, session.close_code) == ([b"a"], [(1012, b"x")], 1012)


def test_what_must_be_said_is_said_to_a_full_socket_and_the_rest_is_not() -> None:
    socket = Socket(waiting=101)
    session = socket.session()
    assert session.offer(b"event") is None
    assert session.write(b"answer")
    assert socket.written == [b"answer"]


@pytest.mark.parametrize("error", [RuntimeError("closed"), ConnectionResetError(), OSError()])
def test_lost_connection_is_closed_without_a_word(error: Exception) -> None:
    socket = Socket(error=error)
    session = socket.session()
    assert not session.write(b"a")
    assert session.offer(b"b") is False
    session.close(1000)
    assert (session.open, session.close_code, socket.closed) == (False, None, [])


def test_full_is_more_than_the_bound() -> None:
    assert not Socket(waiting=100).session().full()
    assert Socket(waiting=101).session().full()


def test_chunk_is_written_in_the_dialect_and_moves_the_position() -> None:
    for dialect in (Dialect.V1, Dialect.PLAIN, Dialect.SSE, Dialect.SSE_RAW):
        socket = Socket()
        viewer = subscription(socket.session(), dialect)
        viewer.deliver(CHUNK)
        assert socket.written == [frame_of(CHUNK, dialect)]
        assert viewer.position == place(3)


def test_one_who_is_behind_gets_nothing_compressed() -> None:
    large = Chunk("p1", place(-1), place(3), [Rendered(2, 1002, 0, b'{"a":"%b"}' % (b"x" * 600))])
    assert frame_of(large, Dialect.V1_DEFLATED) != frame_of(large, Dialect.V1)
    socket = Socket()
    subscription(socket.session(), Dialect.V1_DEFLATED).deliver(large)
    assert socket.written == [frame_of(large, Dialect.V1)]


def test_plain_viewer_hears_nothing_of_an_empty_range() -> None:
    socket = Socket()
    viewer = subscription(socket.session(), Dialect.PLAIN)
    viewer.deliver(Chunk("p1", place(-1), place(4)))
    assert socket.written == []
    assert viewer.position == place(4)


def test_gap_begins_where_the_viewer_is_and_moves_it() -> None:
    socket = Socket()
    viewer = subscription(socket.session())
    viewer.tell(Break("p1", place(9), place(5), Gap.RESET))
    assert b'"reason":"reset"' in socket.written[0]
    assert viewer.position == place(5)


def test_gap_is_told_from_where_the_viewer_is_now() -> None:
    socket = Socket()
    viewer = subscription(socket.session())
    viewer.position = place(4)
    gap = Break("p1", place(-1), place(9), Gap.RETENTION)
    viewer.tell(gap)
    assert socket.written == [gap_frame(gap._replace(prev=place(4)), Dialect.V1)]


def test_arrival_makes_it_live_in_its_dialect() -> None:
    viewer = subscription(Socket().session(), Dialect.PLAIN)
    viewer.arrive()
    assert viewer.live
    assert list(viewer.channel.live[Dialect.PLAIN]) == [viewer]


def test_one_past_the_bound_is_closed_with_its_cursor() -> None:
    socket = Socket()
    subscription(socket.session()).give_up()
    [(code, reason)] = socket.closed
    assert code == 4008
    assert reason.startswith(b'{"cursor":"')


def test_unsubscribed_is_not_open_while_the_connection_is() -> None:
    session = Socket().session()
    viewer = subscription(session)
    viewer.left = True
    assert (viewer.open, session.open) == (False, True)


def test_waiting_for_room_is_one_place_however_often() -> None:
    session = Socket().session()
    viewer = subscription(session)
    viewer.wait_for_room()
    viewer.wait_for_room()
    assert list(session.waiting) == [viewer]


def test_burst_is_allowed_and_one_more_is_not() -> None:
    allowance = Allowance(0.0, rate=2.0, burst=3.0)
    assert [allowance.spend(0.0) for _ in range(4)] == [True, True, True, False]


def test_allowance_grows_back_with_time_up_to_the_burst() -> None:
    allowance = Allowance(0.0, rate=2.0, burst=3.0)
    for _ in range(3):
        allowance.spend(0.0)
    assert [allowance.spend(0.6), allowance.spend(0.6)] == [True, False]
    assert [allowance.spend(1000.0) for _ in range(4)] == [True, True, True, False]
