"""The page as a browser shows it; the test plays the edge and says every event itself."""

import asyncio
import json
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, WebSocketRoute, expect

URL = "http://edge.test/?project=p"
HTML = resources.files("tailrace.edge").joinpath("live.html").read_text()


class Edge:
    """Speaks the plain dialect to one page."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.faults: list[str] = []
        self.sockets: list[WebSocketRoute] = []
        self.said: list[str] = []
        self._connected = asyncio.Event()

    async def serve(self) -> None:
        async def page(route: Route) -> None:
            await route.fulfill(body=HTML, content_type="text/html")

        def connected(socket: WebSocketRoute) -> None:
            self.sockets.append(socket)
            self._connected.set()

        self._page.on("pageerror", lambda error: self.faults.append(str(error)))
        await self._page.route("http://edge.test/**", page)
        await self._page.route_web_socket("**/api/stream/**", connected)
        await self._page.goto(URL)
        await expect(self._page.locator("#connection")).to_have_class("open")

    def say(self, event_type: str, error: str | None = None, **body: Any) -> None:
        """Send an event, each a millisecond later than the one before."""
        at = f"2026-01-02T00:00:{len(self.said) / 1000:09.6f}+00:00"
        event = {"type": event_type, "timestamp": at, **body}
        if error is not None:
            event["errorMessage"] = error
        self.said.append(json.dumps(event | {"cursor": f"c{len(self.said)}"}))
        self.sockets[-1].send(self.said[-1])

    def say_again(self, *numbers: int) -> None:
        for number in numbers:
            self.sockets[-1].send(self.said[number])

    async def drop(self) -> None:
        """Close the connection and wait until the page has come back."""
        self._connected.clear()
        await self.sockets[-1].close(code=1012, reason='{"retry_after_ms":1}')
        await self._connected.wait()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    yield page
    await page.close()


@pytest.fixture
async def edge(page: Page) -> AsyncIterator[Edge]:
    edge = Edge(page)
    await edge.serve()
    yield edge
    assert edge.faults == []


def job(status: str, progress: float = 0.0, run_id: str = "j") -> dict[str, Any]:
    return {"id": run_id, "title": f"{run_id}.md", "status": status, "progress": progress}


def agent(status: str = "running", **members: Any) -> dict[str, Any]:
    return {"id": "a", "goal": "why?", "status": status, "progress": 0.5, **members}


def step(status: str, text: str = "") -> dict[str, Any]:
    return {"id": "s", "run_id": "a", "name": "think", "status": status, "text": text}


def node(name: str, status: str, node_id: str = "", **members: Any) -> dict[str, Any]:
    path = name.split("/")
    ids = {"id": node_id or name, "run_id": "w", "node": path[-1], "path": path}
    return {**ids, "status": status, "attempt": 1, **members}


async def test_job_moves_to_its_end(edge: Edge, page: Page) -> None:
    edge.say("ingest.job.created", job=job("queued"))
    await expect(page.locator("#ingest .now .run.queued .name")).to_have_text("j.md")
    edge.say("ingest.job.updated", job=job("running", 0.5) | {"stage": "INDEXING"})
    await expect(page.locator("#ingest .run.running .bar i")).to_have_attribute(
        "style", "width: 50%;"
    )
    await expect(page.locator("#ingest .note")).to_have_text("INDEXING · 50 %")
    edge.say("ingest.job.cancelled", job=job("cancelled", 0.5))
    await expect(page.locator("#ingest .ended .run.cancelled")).to_be_visible()
    await expect(page.locator("#cancelled")).to_have_text("1")
    await expect(page.locator("#running")).to_have_text("0")


async def test_agents_text_grows_until_its_message_stands_for_it(edge: Edge, page: Page) -> None:
    edge.say("agent.run.created", run=agent("queued"))
    edge.say("agent.step.updated", step=step("running", "because"))
    await expect(page.locator("#agent .typing")).to_have_text("because")
    edge.say("agent.step.updated", step=step("running", "because it rained"))
    await expect(page.locator("#agent .typing")).to_have_text("because it rained")
    said = {"id": "m", "run_id": "a", "role": "assistant", "content": "because it rained"}
    edge.say("agent.message.appended", message=said)
    await expect(page.locator("#agent .typing")).to_have_count(0)
    await expect(page.locator("#agent .say.assistant")).to_have_text("because it rained")
    edge.say("agent.step.updated", step=step("completed", "because it rained"))
    await expect(page.locator("#agent .step.completed")).to_have_text("think")


async def test_calls_of_tools_and_their_answers_are_shown(edge: Edge, page: Page) -> None:
    call = {"name": "search", "args": {"query": "rain"}}
    edge.say("agent.run.created", run=agent())
    ids = {"run_id": "a", "content": ""}
    edge.say(
        "agent.message.appended",
        message={**ids, "id": "m1", "role": "assistant", "tool_calls": [call]},
    )
    found = json.dumps([{"title": "a.md"}, {"title": "b.md"}, {"title": "a.md"}])
    edge.say(
        "agent.message.appended", message={**ids, "id": "m2", "role": "tool", "content": found}
    )
    await expect(page.locator("#agent .say.call")).to_have_text("search(query: rain)")
    await expect(page.locator("#agent .say.tool")).to_have_text("3 found: a.md, b.md")


async def test_graph_shows_branches_subgraphs_retries_and_values(edge: Edge, page: Page) -> None:
    run = {"id": "w", "workflow": "digest", "status": "running"}
    edge.say("workflow.run.created", run=run)
    for branch in ("b1", "b2"):
        edge.say("workflow.node.started", nodeState=node("sum", "running", branch))
        edge.say("workflow.node.started", nodeState=node("sum/read", "running", branch + "r"))
    edge.say("workflow.node.completed", nodeState=node("sum", "completed", "b1"))
    edge.say("workflow.node.failed", "no luck", nodeState=node("give", "failed"))
    edge.say("workflow.node.started", nodeState=node("give", "running", attempt=2))
    values = {"quality": 0.512, "documents": [1, 2]}
    edge.say("workflow.node_state.updated", nodeState=node("check", "completed", values=values))
    rows = page.locator("#workflow .node")
    await expect(rows.locator(".label")).to_have_text(
        ["sum \u00d72", "read \u00d72", "give ↻2", "check"]
    )
    await expect(rows.nth(0).locator("i")).to_have_count(2)
    await expect(rows.nth(0).locator("i.running")).to_have_count(1)
    await expect(rows.nth(1)).to_contain_class("nested")
    await expect(rows.nth(2).locator(".what.failed")).to_have_text("no luck")
    edge.say("workflow.node.completed", nodeState=node("give", "completed", attempt=2))
    await expect(rows.nth(2).locator(".what")).to_have_text("after 1 failed")
    await expect(rows.nth(3).locator(".what")).to_have_text("quality 0.51 · documents 2")


async def test_failure_is_told_and_leaves_nothing_running(edge: Edge, page: Page) -> None:
    run = {"id": "w", "workflow": "audit", "status": "running"}
    edge.say("workflow.run.created", run=run)
    edge.say("workflow.node.started", nodeState=node("validate", "running"))
    edge.say("workflow.run.failed", "interrupted", run=run | {"status": "failed"})
    card = page.locator("#workflow .run.failed")
    await expect(card.locator(".note")).to_have_text("interrupted")
    await expect(page.locator("#failed")).to_have_text("1")
    await card.locator("summary").click()
    await expect(card.locator(".node i.cancelled")).to_be_visible()


async def test_events_that_come_again_change_nothing(edge: Edge, page: Page) -> None:
    run = {"id": "w", "workflow": "digest", "status": "running"}
    edge.say("ingest.job.created", job=job("queued"))
    edge.say("ingest.job.completed", job=job("completed", 1.0))
    edge.say("agent.run.created", run=agent("queued"))
    edge.say("agent.step.updated", step=step("running", "so"))
    edge.say("agent.step.updated", step=step("running", "so far"))
    edge.say("workflow.run.created", run=run)
    edge.say("workflow.node.failed", "no luck", nodeState=node("give", "failed"))
    edge.say("workflow.node.started", nodeState=node("give", "running", attempt=2))
    await expect(page.locator("#workflow .label")).to_have_text("give ↻2")
    shown = await page.locator(".kinds").inner_html()
    await edge.drop()
    assert "after=c7" in edge.sockets[-1].url
    edge.say_again(0, 3, 6)  # older ones of what is known
    edge.say_again(*range(len(edge.said)))
    edge.say_again(0, 3, 6)
    edge.say("ingest.job.created", job=job("queued", run_id="k"))
    await expect(page.locator("#ingest .now .name")).to_have_text("k.md")
    edge.say("ingest.job.completed", job=job("completed", 1.0, run_id="k"))
    await expect(page.locator("#ingest .ended .name").first).to_have_text("k.md")
    await expect(page.locator("#completed")).to_have_text("2")
    await page.locator("#ingest .run").first.evaluate("card => card.remove()")
    shown_again = await page.locator(".kinds").inner_html()
    assert shown_again.replace("2 ended", "1 ended") == shown


async def test_what_a_run_did_before_it_is_known_is_kept_for_it(edge: Edge, page: Page) -> None:
    early = node("think", "running") | {"run_id": "a"}
    edge.say("workflow.node_state.updated", nodeState=early)
    await expect(page.locator("#workflow .run")).to_have_count(1)
    edge.say("agent.run.updated", run=agent())
    edge.say("agent.step.updated", step=step("running"))
    await expect(page.locator("#agent .now .name")).to_have_text("why?")
    await expect(page.locator("#workflow .run")).to_have_count(0)


async def test_page_keeps_few_ended_runs_and_counts_them_all(edge: Edge, page: Page) -> None:
    for number in range(30):
        edge.say("ingest.job.completed", job=job("completed", 1.0, run_id=f"j{number}"))
    await expect(page.locator("#completed")).to_have_text("30")
    await expect(page.locator("#ingest .ended .run")).to_have_count(10)
    await expect(page.locator("#ingest .ended .name").first).to_have_text("j29.md")


async def test_log_shows_facts_and_states_when_asked(edge: Edge, page: Page) -> None:
    edge.say("ingest.job.updated", job=job("running", 0.5))
    edge.say("ingest.job.completed", job=job("completed", 1.0))
    lines = page.locator("#log li:visible em")
    await expect(lines).to_have_text(["ingest.job.completed"])
    await page.locator("#all").check()
    await expect(lines).to_have_text(["ingest.job.completed", "ingest.job.updated"])


async def test_gap_is_told_in_the_log(edge: Edge, page: Page) -> None:
    edge.sockets[-1].send('{"type":"stream.gap","reason":"retention","cursor":"c"}')
    await expect(page.locator("#log .bad")).to_have_text("stream.gapretention")


async def test_refused_page_says_why_and_stays_away(edge: Edge, page: Page) -> None:
    await edge.sockets[-1].close(code=4503, reason="not your project")
    await expect(page.locator("#connection")).to_have_text("closed: not your project")
    await expect(page.locator("#connection")).to_have_class("failed")
    assert len(edge.sockets) == 1


@pytest.mark.parametrize("width", [400, 1280])
async def test_page_is_never_wider_than_its_window(edge: Edge, page: Page, width: int) -> None:
    await page.set_viewport_size({"width": width, "height": 800})
    name = "a-very-long-name-" * 20
    edge.say("agent.run.created", run=agent(goal=name))
    edge.say("agent.step.updated", step=step("running", name * 4))
    edge.say("ingest.job.failed", name, job=job("failed") | {"title": name})
    edge.say("workflow.node.failed", name, nodeState=node(name, "failed"))
    await expect(page.locator("#failed")).to_have_text("1")
    assert await page.evaluate("document.documentElement.scrollWidth") == width


def test_page_needs_nothing_from_elsewhere() -> None:
    assert "http:" not in HTML
    assert "https:" not in HTML
    assert "//" not in "".join(
        line for line in HTML.splitlines() if "src" in line or "href" in line
    )
