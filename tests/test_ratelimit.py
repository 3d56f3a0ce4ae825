from tailrace.logs import RateLimit


def test_first_line_passes_and_the_next_says_how_many_were_held() -> None:
    limit = RateLimit(10.0)
    assert limit.allow("a", 0.0) == 0
    assert limit.allow("a", 1.0) is None
    assert limit.allow("a", 9.9) is None
    assert limit.allow("a", 10.0) == 2
    assert limit.allow("a", 20.0) == 0


def test_keys_do_not_hold_each_other_back() -> None:
    limit = RateLimit(10.0)
    assert limit.allow("a", 0.0) == 0
    assert limit.allow("b", 0.0) == 0


def test_memory_is_bounded() -> None:
    limit = RateLimit(10.0, max_keys=3)
    for key in range(100):
        assert limit.allow(key, 0.0) == 0
    assert len(limit._seen) <= 3
