"""What all HTTP routes of the services share: request bodies in, JSON and errors out.

An error is always ``{"error":{"code","message"}}``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple, TypeVar

import orjson
import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError

from tailrace.schemas import ParameterError, TailraceError, UnavailableError
from tailrace.services.errors import (
    DocumentError,
    NotFoundError,
    PathForbiddenError,
    QueueFullError,
    RunEndedError,
    TooLargeError,
    UnsupportedTypeError,
)

__all__ = ["MAX_BODY_BYTES", "errors_as_json", "model_response", "project_of", "read_body"]

MAX_BODY_BYTES = 1024 * 1024
"""Size of the largest request body; a larger one is answered with 413."""

_BODY_SECONDS = 10.0
_PROJECT_CHARS = 200
_RETRY_AFTER = {"Retry-After": "2"}
_PASSED_ON = ("Allow",)
_log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Model = TypeVar("Model", bound=BaseModel)


class _Answer(NamedTuple):
    status: HTTPStatus
    code: str


_ANSWERS: dict[type[TailraceError], _Answer] = {
    ParameterError: _Answer(HTTPStatus.BAD_REQUEST, "bad_request"),
    DocumentError: _Answer(HTTPStatus.BAD_REQUEST, "bad_request"),
    PathForbiddenError: _Answer(HTTPStatus.FORBIDDEN, "forbidden"),
    NotFoundError: _Answer(HTTPStatus.NOT_FOUND, "not_found"),
    RunEndedError: _Answer(HTTPStatus.CONFLICT, "already_ended"),
    TooLargeError: _Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large"),
    UnsupportedTypeError: _Answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported"),
    QueueFullError: _Answer(HTTPStatus.TOO_MANY_REQUESTS, "queue_full"),
    UnavailableError: _Answer(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
}
_INTERNAL = _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "internal")


def _answer_of(error: TailraceError) -> _Answer:
    """Return the answer of the error's class, or of the nearest one above it."""
    found = (_ANSWERS[cls] for cls in type(error).__mro__ if cls in _ANSWERS)
    return next(found, _INTERNAL)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every failure of a handler with the JSON error that belongs to it."""
    try:
        return await handler(request)
    except TailraceError as exc:
        return _error_response(_answer_of(exc), str(exc), _RETRY_AFTER if exc.retriable else {})
    except web.HTTPException as exc:
        return _http_error(request, exc)
    except Exception:  # noqa: BLE001 - the root of the request
        _log.exception("request_crashed", method=request.method, path=request.path)
        return _error_response(_INTERNAL, "internal error, see the log of the service")


def _http_error(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """Answer what aiohttp itself refuses: unknown routes, other methods, large bodies."""
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return _error_response(
            _ANSWERS[TooLargeError],
            str(TooLargeError("the request body", MAX_BODY_BYTES)),
        )
    status = HTTPStatus(error.status)
    headers = {name: error.headers[name] for name in _PASSED_ON if name in error.headers}
    message = f"{request.method} {request.path}: {status.phrase.lower()}"
    return _error_response(_Answer(status, status.name.lower()), message, headers)


def _error_response(
    answer: _Answer,
    message: str,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    body = orjson.dumps({"error": {"code": answer.code, "message": message}})
    return web.Response(
        status=answer.status,
        body=body,
        content_type="application/json",
        headers=headers,
    )


def model_response(
    model: BaseModel,
    *,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Answer with a model as JSON, never to be cached."""
    return web.Response(
        status=status,
        body=model.model_dump_json().encode(),
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def project_of(request: web.Request) -> str:
    """Return the project that the URL names.

    Raises:
        ParameterError: It is blank, longer than 200 characters, or not printable.
    """
    project = request.match_info["project"]
    if not project.strip() or len(project) > _PROJECT_CHARS or not project.isprintable():
        raise ParameterError("project", f"must be 1 … {_PROJECT_CHARS} printable characters")
    return project


async def read_body(request: web.Request, model: type[Model]) -> Model:
    """Return the request's body, checked by `model`.

    Only ``application/json`` is read: another page's form cannot send that unasked.

    Raises:
        UnsupportedTypeError: It has another type.
        ParameterError: It is not JSON or not what `model` allows.
        web.HTTPException: It is too large (413) or too slow (408).
    """
    if request.content_type != "application/json":
        raise UnsupportedTypeError(f"Content-Type {request.content_type!r}", "application/json")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await request.read()
    except TimeoutError as exc:
        raise web.HTTPRequestTimeout from exc
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        raise _first_problem(exc) from exc


def _first_problem(error: ValidationError) -> ParameterError:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "body"
    return ParameterError(where, problem["msg"].removeprefix("Value error, "))
