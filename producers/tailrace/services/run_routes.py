"""The HTTP routes that every service has: look at runs, and cancel one."""

from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import web
from pydantic import RootModel, SerializeAsAny

from tailrace.services.http import model_response, project_of
from tailrace.services.lifecycle import RunService
from tailrace.services.runs import Run

__all__ = ["created", "run_routes"]

_Service = TypeVar("_Service", bound=RunService[Any])


class _RunList(RootModel[dict[str, list[SerializeAsAny[Run]]]]):
    """Newest first."""


def run_routes(path: str, key: web.AppKey[_Service]) -> list[web.RouteDef]:
    """Return the routes below `path`; the application must hold the service under `key`."""

    async def newest(request: web.Request) -> web.Response:
        service = request.app[key]
        runs = await service.newest(project_of(request))
        return model_response(_RunList({f"{service.noun}s": runs}))

    async def get(request: web.Request) -> web.Response:
        run: Run = await request.app[key].get(project_of(request), request.match_info["run"])
        return model_response(run)

    async def cancel(request: web.Request) -> web.Response:
        run: Run = await request.app[key].cancel(project_of(request), request.match_info["run"])
        return model_response(run)

    return [
        web.get(path, newest),
        web.get(path + "/{run}", get),
        web.post(path + "/{run}/cancel", cancel),
    ]


def created(run: Run, path: str) -> web.Response:
    """Answer with a new run, and where below the raw `path` it is found."""
    headers = {"Location": f"{path}/{run.id}"}
    return model_response(run, status=HTTPStatus.CREATED, headers=headers)
