from tailrace.client.backoff import Backoff


def test_waits_double_up_to_half_a_minute() -> None:
    backoff = Backoff(lambda: 0.0)
    assert [backoff.next() for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_jitter_takes_up_to_a_half() -> None:
    assert Backoff(lambda: 0.5).next() == 0.375
    assert Backoff(lambda: 1.0).next() == 0.25


def test_what_the_server_asked_for_is_waited_in_full() -> None:
    assert Backoff(lambda: 0.0).next(7.0) == 7.5


def test_a_server_is_believed_for_a_minute_at_most() -> None:
    assert Backoff(lambda: 0.0).next(float("inf")) == 60.5


def test_reset_begins_anew() -> None:
    backoff = Backoff(lambda: 0.0)
    backoff.next()
    backoff.next()
    backoff.reset()
    assert backoff.next() == 0.5
