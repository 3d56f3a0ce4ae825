from tailrace.edge.session import Allowance, Session


class Wire:
    """What a session does to its connection."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closes: list[tuple[int, bytes]] = []

    def session(self) -> Session:
        return Session(self.written.append, lambda: 7, lambda *close: self.closes.append(close))


def test_new_session_is_open_and_writes_to_its_connection() -> None:
    wire = Wire()
    session = wire.session()

    session.write(b"frame")

    assert session.open
    assert session.buffered() == 7
    assert wire.written == [b"frame"]


def test_only_the_first_close_counts() -> None:
    wire = Wire()
    session = wire.session()

    session.close(4008, b"first")
    session.close(1012, b"second")

    assert not session.open
    assert session.close_code == 4008
    assert wire.closes == [(4008, b"first")]


def test_session_that_was_lost_is_not_closed_again() -> None:
    wire = Wire()
    session = wire.session()
    session.open = False

    session.close(1012)

    assert session.close_code is None
    assert wire.closes == []


def test_session_has_no_dict() -> None:
    assert not hasattr(Wire().session(), "__dict__")


def test_burst_is_allowed_and_one_more_is_not() -> None:
    allowance = Allowance(0.0, rate=1.0, burst=3.0)

    assert [allowance.spend(0.0) for _ in range(4)] == [True, True, True, False]


def test_allowance_grows_back_at_its_rate() -> None:
    allowance = Allowance(0.0, rate=2.0, burst=1.0)

    spent = [(now, allowance.spend(now)) for now in (0.0, 0.25, 0.5, 0.75, 1.25)]

    assert spent == [(0.0, True), (0.25, False), (0.5, True), (0.75, False), (1.25, True)]


def test_silence_never_saves_up_more_than_the_burst() -> None:
    allowance = Allowance(0.0, rate=10.0, burst=2.0)

    assert [allowance.spend(1_000.0) for _ in range(3)] == [True, True, False]


def test_default_allowance_is_100_at_once_and_20_a_second() -> None:
    allowance = Allowance(0.0)

    assert sum(allowance.spend(0.0) for _ in range(200)) == 100
    assert sum(allowance.spend(1.0) for _ in range(200)) == 20
