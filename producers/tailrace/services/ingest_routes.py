"""The HTTP routes of the ingest service."""

from typing import Annotated, Self

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from tailrace.services.http import project_of, read_body
from tailrace.services.ingest import IngestService
from tailrace.services.run_routes import created, run_routes

__all__ = ["INGEST", "ingest_routes"]

INGEST = web.AppKey("INGEST", IngestService)
"""The service that the routes of an application use."""

_PATH = "/api/projects/{project}/ingest"


class _IngestRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    path: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    text: str | None = None
    title: (
        Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
        | None
    ) = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.path is None) == (self.text is None):
            raise ValueError('give exactly one of "path" and "text"')
        return self


def ingest_routes() -> list[web.RouteDef]:
    """Return the routes; the application must hold an `IngestService` under `INGEST`."""
    return [web.post(_PATH, _submit), *run_routes(_PATH, INGEST)]


async def _submit(request: web.Request) -> web.Response:
    project = project_of(request)
    wanted = await read_body(request, _IngestRequest)
    job = await request.app[INGEST].submit(
        project,
        path=wanted.path,
        text=wanted.text,
        title=wanted.title,
    )
    return created(job, request.rel_url.raw_path)
