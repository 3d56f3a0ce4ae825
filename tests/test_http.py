import asyncio
import io
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import BaseModel, ConfigDict

from tailrace.schemas import ParameterError, TailraceError
from tailrace.services import errors, http
from tailrace.services.http import (
    MAX_BODY_BYTES,
    errors_as_json,
    model_response,
    project_of,
    read_body,
)


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    count: int


async def _echo(request: web.Request) -> web.Response:
    return model_response(await read_body(request, Body), headers={"X-Project": "p"})


async def _project(request: web.Request) -> web.Response:
    return web.json_response({"project": project_of(request)})


async def _raise(request: web.Request) -> web.Response:
    raise request.app[_ERROR]


_ERROR = web.AppKey("ERROR", Exception)


@pytest.fixture
def app() -> web.Application:
    app = web.Application(middlewares=[errors_as_json], client_max_size=MAX_BODY_BYTES)
    app[_ERROR] = RuntimeError("a secret of the code")
    app.add_routes(
        [web.post("/echo", _echo), web.get("/p/{project}", _project), web.get("/raise", _raise)],
    )
    return app


@pytest.fixture
async def client(app: web.Application) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    async with TestClient(TestServer(app)) as client:
        yield client


Client = TestClient[web.Request, web.Application]


async def error_of(answer: ClientResponse) -> tuple[int, str, str]:
    body = await answer.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"code", "message"}
    return answer.status, body["error"]["code"], body["error"]["message"]


async def test_checked_body_comes_back_and_is_not_cached(client: Client) -> None:
    answer = await client.post("/echo", json={"count": 1})
    assert (answer.status, await answer.json()) == (200, {"count": 1})
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Project"] == "p"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "body: Invalid JSON"),
        (b"{", "body: Invalid JSON"),
        (b"\xff", "body: Invalid JSON"),
        (b"[" * 100_000, "body: Invalid JSON"),
        (b"[]", "body: Input should be an object"),
        (b"{}", "count: Field required"),
        (b'{"count":"1"}', "count: Input should be a valid integer"),
        (b'{"count":1,"other":2}', "other: Extra inputs are not permitted"),
    ],
)
async def test_unusable_body_is_refused_by_member(client: Client, body: bytes, where: str) -> None:
    headers = {"Content-Type": "application/json"}
    status, code, message = await error_of(await client.post("/echo", data=body, headers=headers))
    assert (status, code) == (400, "bad_request")
    assert message.startswith(where)


async def test_body_of_another_type_is_refused(client: Client) -> None:
    answer = await client.post("/echo", data=b"{}", headers={"Content-Type": "text/plain"})
    assert await error_of(answer) == (
        415,
        "unsupported",
        "Content-Type 'text/plain' is not supported, only application/json",
    )


async def test_body_above_the_bound_is_refused(client: Client) -> None:
    body = io.BytesIO(b"x" * (MAX_BODY_BYTES + 1))
    headers = {"Content-Type": "application/json"}
    status, code, message = await error_of(await client.post("/echo", data=body, headers=headers))
    assert (status, code) == (413, "too_large")
    assert str(MAX_BODY_BYTES) in message


async def test_body_that_does_not_come_is_not_waited_for(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "_BODY_SECONDS", 0.0)
    headers = {"Content-Type": "application/json"}

    answered = asyncio.Event()

    async def late() -> AsyncIterator[bytes]:
        yield b"{"
        await answered.wait()
        yield b"}"

    answer = await client.post("/echo", data=late(), headers=headers)
    answered.set()
    assert (await error_of(answer))[:2] == (408, "request_timeout")


async def test_unknown_route_and_method_get_json_too(client: Client) -> None:
    assert (await error_of(await client.get("/nowhere")))[:2] == (404, "not_found")
    answer = await client.get("/echo")
    assert (await error_of(answer))[:2] == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ParameterError("a", "b"), 400, "bad_request"),
        (errors.DocumentError("a"), 400, "bad_request"),
        (errors.PathForbiddenError("a"), 403, "forbidden"),
        (errors.NotFoundError("job", "a"), 404, "not_found"),
        (errors.RunEndedError("job", "a", "failed"), 409, "already_ended"),
        (errors.TooLargeError("a", 1), 413, "too_large"),
        (errors.UnsupportedTypeError("a", "b"), 415, "unsupported"),
        (errors.QueueFullError(1), 429, "queue_full"),
        (errors.DrainingError(), 503, "unavailable"),
        (errors.StorageError("a", "b"), 503, "unavailable"),
        (TailraceError("a"), 500, "internal"),
    ],
)
async def test_each_error_has_its_answer(
    app: web.Application,
    client: Client,
    error: TailraceError,
    status: int,
    code: str,
) -> None:
    app._state[_ERROR] = error
    answer = await client.get("/raise")
    assert await error_of(answer) == (status, code, str(error))
    assert ("Retry-After" in answer.headers) is error.retriable


async def test_crash_shows_nothing_of_the_code(client: Client) -> None:
    answer = await client.get("/raise")
    status, code, message = await error_of(answer)
    assert (status, code) == (500, "internal")
    assert "secret" not in message


@pytest.mark.parametrize("project", ["p", "a%2Fb", "%C3%A9t%C3%A9", "x" * 200])
async def test_project_id_may_hold_any_printable_text(client: Client, project: str) -> None:
    answer = await client.get(f"/p/{project}")
    assert answer.status == 200


@pytest.mark.parametrize("project", ["%20", "a%00b", "a%0Ab", "x" * 201, "%ED%A0%80%0A"])
async def test_impossible_project_id_is_refused(client: Client, project: str) -> None:
    answer = await client.get(f"/p/{project}")
    assert (await error_of(answer))[:2] == (400, "bad_request")
