"""The demo as a user runs it, its page in a real Chromium."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

CHAPTERS = {
    "dams.md": "A dam holds the river back and lets it through when the town needs power.",
    "gates.md": "Two gates close the channel, so that a turbine can be opened and mended.",
    "rivers.md": "The river brings snow water in spring and little more than a trickle in autumn.",
    "tailrace.md": "The tailrace leads the water away from the turbine and back into the river.",
    "turbines.md": "A turbine turns the falling water into power; a worn blade costs a tenth.",
    "weirs.md": "The weir keeps the water level steady and gives the fish a ladder to climb.",
}


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    texts = list(CHAPTERS.values())
    for number, name in enumerate(CHAPTERS):
        prose = "\n".join((texts[number:] + texts[:number]) * 2)
        paragraphs = (f"## Part {part}\n\n{prose}\n" for part in range(6 + 3 * number))
        (folder / name).write_text("\n".join(paragraphs))
    return folder


async def demo(servers: str, documents: Path, *flags: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tailrace.cli", "demo", "--path", str(documents), *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": servers},
    )


async def address(process: asyncio.subprocess.Process) -> str:
    """Read the demo's output up to the address of its page."""
    assert process.stdout is not None, "a pipe"
    async for line in process.stdout:
        if found := re.search(rb"http://\S+", line):
            return found[0].decode()
    raise AssertionError("the demo ended without an address")


async def picture(page: Page, folder: Path) -> None:
    """Take the page when every kind is busy: a job, an agent that writes, a graph's nodes."""
    for busy in (
        "#ingest .run.running",
        "#agent .run.running .typing",
        "#workflow .run.running .node.running",
    ):
        await expect(page.locator(busy).first).to_be_visible(timeout=30_000)
    await page.screenshot(path=folder / "live.png")


async def test_demo_moves_all_three_kinds_on_its_page_and_loses_nothing(
    kafka: str, browser: Browser, documents: Path, tmp_path: Path
) -> None:
    process = await demo(kafka, documents, "--seconds", "20")
    page = await browser.new_page(viewport={"width": 1280, "height": 1000})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    await page.goto(await address(process))
    await expect(page.locator("#connection")).to_have_class("open", timeout=10_000)
    for kind in ("ingest", "agent", "workflow"):
        await expect(page.locator(f"#{kind} .run.completed").first).to_be_visible(timeout=30_000)
    for end in ("#workflow .run.failed", "#agent .run.cancelled, #ingest .run.cancelled"):
        await expect(page.locator(end).first).to_be_visible(timeout=30_000)
    await picture(page, Path(os.environ.get("TAILRACE_SCREENSHOTS", tmp_path)))
    output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    told = output.decode()
    found = re.search(r"emitted (\d+) · delivered (\d+) · lost 0 · p50 [\d.]+ ms", told)
    assert found is not None
    assert int(found[1]) == int(found[2]) > 100
    for runs in ("ingest jobs", "agent runs", "workflow runs"):
        assert re.search(rf"\d+ {runs} \([1-9]\d* completed", told)
    assert await page.locator(".now > .run").count() == 0
    assert faults == []


async def test_interrupted_demo_ends_everything_it_started(kafka: str, documents: Path) -> None:
    process = await demo(kafka, documents)
    await address(process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(2)
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert "lost 0" in output.decode()
    assert len(children) == 2
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


async def test_folder_without_documents_is_told_in_one_line(kafka: str, tmp_path: Path) -> None:
    process = await demo(kafka, tmp_path, "--seconds", "1")
    output, errors = await process.communicate()
    assert process.returncode == 1
    assert output == b""
    assert errors.decode().splitlines() == [
        f"tailrace: {tmp_path} holds no .md, .txt, .html file: choose a folder with --path"
    ]
