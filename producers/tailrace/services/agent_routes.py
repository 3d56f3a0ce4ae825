"""The HTTP routes of the agent service."""

from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, StringConstraints

from tailrace.services.agent import AgentService
from tailrace.services.http import project_of, read_body
from tailrace.services.run_routes import created, run_routes

__all__ = ["AGENT", "agent_routes"]

AGENT = web.AppKey("AGENT", AgentService)
"""The service that the routes of an application use."""

_PATH = "/api/projects/{project}/agent-runs"


class _AgentRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    goal: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]


def agent_routes() -> list[web.RouteDef]:
    """Return the routes; the application must hold an `AgentService` under `AGENT`."""
    return [web.post(_PATH, _submit), *run_routes(_PATH, AGENT)]


async def _submit(request: web.Request) -> web.Response:
    project = project_of(request)
    wanted = await read_body(request, _AgentRequest)
    run = await request.app[AGENT].submit(project, wanted.goal)
    return created(run, request.rel_url.raw_path)
