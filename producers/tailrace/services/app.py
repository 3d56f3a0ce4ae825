"""The aiohttp application of the reference services."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Protocol

from aiohttp import web

from tailrace.producers import EmitterStats
from tailrace.producers.graph_run import GraphEvents
from tailrace.services.agent import AgentJob, AgentService, chat_model
from tailrace.services.agent_routes import AGENT, agent_routes
from tailrace.services.audit import audit
from tailrace.services.digest import digest
from tailrace.services.files import FileRoot
from tailrace.services.http import MAX_BODY_BYTES, errors_as_json
from tailrace.services.index import SearchIndex
from tailrace.services.ingest import IngestEvents, IngestService
from tailrace.services.ingest_routes import INGEST, ingest_routes
from tailrace.services.jobs import Job
from tailrace.services.settings import ServicesSettings
from tailrace.services.store import RunStore
from tailrace.services.workflow import WorkflowJob, WorkflowService
from tailrace.services.workflow_routes import WORKFLOW, workflow_routes

__all__ = ["ServicesEvents", "create_app"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_GAUGES = frozenset({"waiting", "waiting_bytes", "in_flight"})
_WORKFLOWS = {"audit": audit, "digest": digest}


class ServicesEvents(IngestEvents, GraphEvents, Protocol):
    """Where the services tell what happens. `StreamingService` is one."""


def create_app(
    settings: ServicesSettings, events: ServicesEvents, stats: Callable[[], EmitterStats]
) -> web.Application:
    """Return the application; run it with any aiohttp runner.

    Starting it opens the databases in `settings.data_dir` (`StorageError` when another process
    holds them, `ParameterError` when the chat model cannot be used) and ends what an earlier
    process left unfinished. Stopping it drains: requests for new runs get 503, runs stop as soon as
    their work can be left, then the databases are closed.

    Args:
        settings: The operator's settings.
        events: Where the services emit, usually a `StreamingService`. Flush it after the
            application has stopped: the last events are emitted on the way down.
        stats: What became of the events, for ``/metrics``.
    """
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[errors_as_json])
    app.add_routes([web.get("/healthz", _healthz), web.get("/metrics", _metrics(stats))])
    app.add_routes([*ingest_routes(), *agent_routes(), *workflow_routes()])
    app.cleanup_ctx.append(_services(settings, events))
    app.on_shutdown.append(_drain)
    return app


def _services(
    settings: ServicesSettings, events: ServicesEvents
) -> Callable[[web.Application], AsyncIterator[None]]:
    async def running(app: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            folder, size = settings.data_dir, settings.ingest_index_max_bytes
            jobs = stack.enter_context(RunStore(folder / "jobs.db", Job, noun="job"))
            agents = stack.enter_context(RunStore(folder / "agent-runs.db", AgentJob))
            workflows = stack.enter_context(RunStore(folder / "workflow-runs.db", WorkflowJob))
            index = stack.enter_context(SearchIndex(folder / "index.db", max_bytes=size))
            ingest = IngestService(
                store=jobs,
                index=index,
                files=FileRoot(settings.ingest_root, max_bytes=settings.ingest_max_bytes),
                events=events,
                capacity=settings.ingest_capacity,
            )
            agent = AgentService(
                store=agents,
                index=index,
                model=chat_model(settings.chat_model, settings.agent_capacity.pace / 10),
                events=events,
                max_steps=settings.agent_max_steps,
                capacity=settings.agent_capacity,
            )
            workflow = WorkflowService(
                store=workflows,
                index=index,
                workflows=_WORKFLOWS,
                events=events,
                capacity=settings.workflow_capacity,
            )
            app[INGEST] = await stack.enter_async_context(ingest)
            app[AGENT] = await stack.enter_async_context(agent)
            app[WORKFLOW] = await stack.enter_async_context(workflow)
            yield

    return running


async def _drain(app: web.Application) -> None:
    await asyncio.gather(*(app[key].drain() for key in (INGEST, AGENT, WORKFLOW)))


def _metrics(stats: Callable[[], EmitterStats]) -> Handler:
    """Return the handler that tells the emitter's counts in the Prometheus text format."""

    async def metrics(_request: web.Request) -> web.Response:
        lines = [
            f"# TYPE tailrace_{name}{suffix} {kind}\ntailrace_{name}{suffix} {value}"
            for name, value in stats()._asdict().items()
            for suffix, kind in [("", "gauge") if name in _GAUGES else ("_total", "counter")]
        ]
        return web.Response(text="\n".join(lines) + "\n")

    return metrics


async def _healthz(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})
