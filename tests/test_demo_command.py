"""The demo as a user runs it, its page in a real Chromium."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright, expect

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
async def browser(chromium_path: Path) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium_path, args=CHROMIUM_FLAGS
        )
        yield browser
        await browser.close()


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(6):
        paragraphs = (f"## Part {part}\n\n{'tail race water ' * 60}\n" for part in range(20))
        (folder / f"chapter-{number}.md").write_text("\n".join(paragraphs))
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


async def test_demo_moves_jobs_on_its_page_and_loses_nothing(
    kafka: str, browser: Browser, documents: Path, tmp_path: Path
) -> None:
    process = await demo(kafka, documents, "--seconds", "10")
    page = await browser.new_page(viewport={"width": 1100, "height": 980})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    await page.goto(await address(process))
    await expect(page.locator("#connection")).to_have_class("open", timeout=10_000)
    await expect(page.locator(".run.running .bar i").first).to_be_visible(timeout=10_000)
    await expect(page.locator(".run.completed").nth(5)).to_be_visible(timeout=20_000)
    folder = Path(os.environ.get("TAILRACE_SCREENSHOTS", tmp_path))
    await page.screenshot(path=folder / "live.png")
    output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    found = re.search(r"emitted (\d+) · delivered (\d+) · lost 0 · p50 [\d.]+ ms", output.decode())
    assert found is not None
    assert int(found[1]) == int(found[2]) > 100
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
