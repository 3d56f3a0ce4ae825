import pytest

from tailrace.edge.access import origin_allowed

ALLOWED = frozenset({"https://app.example", "http://localhost:3000"})


def test_no_origin_is_not_a_browser_and_may_connect() -> None:
    assert origin_allowed(None, "edge.example", frozenset())


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://edge.example", "edge.example"),
        ("http://edge.example:8400", "edge.example:8400"),
        ("http://EDGE.example", "edge.EXAMPLE"),
        ("http://[::1]:8400", "[::1]:8400"),
    ],
)
def test_the_edges_own_origin_may_connect(origin: str, host: str) -> None:
    assert origin_allowed(origin, host, frozenset())


@pytest.mark.parametrize("origin", sorted(ALLOWED))
def test_a_listed_origin_may_connect(origin: str) -> None:
    assert origin_allowed(origin, "edge.example", ALLOWED)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.example",  # another scheme than the listed one
        "https://app.example:8443",
        "https://app.example.evil.example",
        "https://edge.example.evil.example",
        "https://edge.example@evil.example",
        "http://edge.example:8401",
        "null",
        "",
    ],
)
def test_any_other_origin_may_not(origin: str) -> None:
    assert not origin_allowed(origin, "edge.example", ALLOWED)


@pytest.mark.parametrize("origin", ["http://[", "http://[evil]/", "https://a\u2100b"])
def test_an_origin_that_is_not_a_url_is_refused(origin: str) -> None:
    assert not origin_allowed(origin, "edge.example", ALLOWED)


@pytest.mark.parametrize("origin", ["null", "", "file://"])
def test_an_origin_without_a_host_never_matches_an_empty_host_header(origin: str) -> None:
    assert not origin_allowed(origin, "", ALLOWED)
