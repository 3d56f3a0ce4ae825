"""Parameters of a stream: the URL that they make, and what is refused before connecting."""

import pytest
from yarl import URL

from tailrace.client.request import Request, edge_urls, stream_request
from tailrace.schemas import ParameterError

EDGE = "http://h:1"


def asked(
    project: str = "p", kind: str | None = None, run: str | None = None, **more: object
) -> Request:
    given: dict[str, object] = {
        "types": (),
        "delivery": "latest",
        "window": 40,
        "from_": None,
        "after": None,
    }
    return stream_request(project, kind, run, **{**given, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (None, "/api/stream/projects/p"),
        ("ingest", "/api/stream/projects/p/ingest/r"),
        ("agent", "/api/stream/projects/p/agent-runs/r"),
        ("workflow", "/api/stream/projects/p/workflows/runs/r"),
    ],
)
def test_url_is_that_of_the_channel(kind: str | None, path: str) -> None:
    request = asked("p", kind, None if kind is None else "r")
    assert request.url(EDGE, None) == f"http://h:1{path}"


def test_ids_stand_encoded_in_the_url() -> None:
    url = asked("a/b?c", "ingest", "ü #%").url(EDGE, None)
    assert url == "http://h:1/api/stream/projects/a%2Fb%3Fc/ingest/%C3%BC%20%23%25"
    assert str(URL(url, encoded=True)) == url


def test_only_what_is_not_default_stands_in_the_query() -> None:
    request = asked(types=["ingest.*", "my.type"], delivery="every", window=0, from_="start")
    assert request.url(EDGE, None).partition("?")[2] == (
        "types=ingest.*,my.type&delivery=every&window=0&from=start"
    )
    assert "?" not in asked().url(EDGE, None)


def test_a_cursor_takes_the_place_of_the_start() -> None:
    assert asked(from_="live").url(EDGE, "c1").partition("?")[2] == "after=c1"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("project", {"project": ""}),
        ("project", {"project": "\ud800"}),
        ("kind", {"kind": "custom", "run": "r"}),
        ("kind", {"run": "r"}),
        ("run", {"kind": "ingest"}),
        ("run", {"kind": "ingest", "run": ""}),
        ("types", {"types": "ingest.*"}),
        ("types", {"types": [""]}),
        ("types", {"types": ["a,b"]}),
        ("types", {"types": ["*.a"]}),
        ("types", {"types": ["a"] * 65}),
        ("delivery", {"delivery": "some"}),
        ("window", {"window": 30}),
        ("from", {"from_": "end"}),
        ("from", {"from_": "start", "after": "c"}),
        ("after", {"after": ""}),
        ("after", {"after": "a&b"}),
        ("after", {"after": "a" * 65}),
    ],
)
def test_refused_parameter_is_named(name: str, parameters: dict[str, object]) -> None:
    with pytest.raises(ParameterError) as caught:
        asked(**parameters)  # type: ignore[arg-type]
    assert caught.value.name == name
    assert len(str(caught.value)) < 250


def test_one_edge_or_several() -> None:
    assert edge_urls("http://a:1/") == ("http://a:1",)
    given = ["https://a", "ws://b:2/behind/", "wss://[::1]:3"]
    assert edge_urls(given) == ("https://a", "ws://b:2/behind", "wss://[::1]:3")


@pytest.mark.parametrize(
    "urls",
    [
        [],
        ["http://a"] * 65,
        "",
        "a:1",
        "ftp://a",
        "http://",
        "http://a:port",
        "http://a:99999",
        "http://[a",
        "http://a..b",
        "http://a?b=c",
        "http://a#b",
        "http://a b",
        "http://user:secret@a",
        "http://a\n",
    ],
)
def test_what_is_no_address_of_an_edge_is_refused(urls: str | list[str]) -> None:
    with pytest.raises(ParameterError, match=r"^urls: "):
        edge_urls(urls)


def test_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(ParameterError) as caught:
        edge_urls("http://user:secret@a")
    assert "secret" not in str(caught.value)
