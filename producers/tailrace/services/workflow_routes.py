"""The HTTP routes of the workflow service."""

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tailrace.services.http import project_of, read_body
from tailrace.services.run_routes import created, run_routes
from tailrace.services.workflow import WorkflowService

__all__ = ["WORKFLOW", "workflow_routes"]

WORKFLOW = web.AppKey("WORKFLOW", WorkflowService)
"""The service that the routes of an application use."""

_PATH = "/api/projects/{project}/workflows"


class _WorkflowRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    input: dict[str, JsonValue] = Field(default_factory=dict)


def workflow_routes() -> list[web.RouteDef]:
    """Return the routes; the application must hold a `WorkflowService` under `WORKFLOW`."""
    return [
        web.post(_PATH + "/{name}/runs", _submit),
        *run_routes(_PATH + "/runs", WORKFLOW),
    ]


async def _submit(request: web.Request) -> web.Response:
    project = project_of(request)
    wanted = await read_body(request, _WorkflowRequest)
    run = await request.app[WORKFLOW].submit(project, request.match_info["name"], wanted.input)
    path = request.rel_url.raw_path.rsplit("/", 2)[0]
    return created(run, f"{path}/runs")
