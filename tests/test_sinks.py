import asyncio

import pytest
from memory_log import MemoryLog

from tailrace.cli.produce_command import parse_line
from tailrace.producers import Emitter, ProducerSettings


def test_stdout_gets_lines_that_produce_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_SINK", "stdout")
    emitter = Emitter()
    emitter.emit("ingest", "p", "ingest.job.failed", {"id": "j"}, "boom")
    emitter.emit("custom", "p", "my.type", {"n": 1})
    assert emitter.close(10)
    out = capsys.readouterr().out.splitlines()
    first, second = [parse_line(line.encode()) for line in out if line.startswith("{")]
    assert first == ("p", "ingest.job.failed", "ingest", "j", "boom", {"job": {"id": "j"}})
    assert second == ("p", "my.type", "custom", None, None, {"n": 1})


def test_memory_takes_everything_and_leaves_nothing() -> None:
    emitter = Emitter(ProducerSettings(sink="memory"))
    emitter.emit("custom", "p", "my.type", {"n": 1})
    assert emitter.close(10)
    assert emitter.stats().acknowledged == 1


async def test_durable_emit_waits_for_the_acknowledgement() -> None:
    log = MemoryLog()
    async with Emitter(ProducerSettings(), connect=log.connect) as emitter:
        assert await emitter.aemit("custom", "p", "my.type", {"n": 1})
        assert len(log.written) == 1
        assert not await emitter.aemit("custom", "p", "Not A Type", {"n": 1})
        log.up.clear()
        assert await emitter.aemit("custom", "p", "my.type", {"n": 2}, durable=False)
        assert not await emitter.aemit("custom", "p", "my.type", {"n": 3}, timeout=0)
        log.up.set()


def test_durable_emit_that_is_given_up_keeps_no_loop_from_ending() -> None:
    log = MemoryLog()
    log.up.clear()
    emitter = Emitter(ProducerSettings(), connect=log.connect)

    async def give_up() -> None:
        waiting = [
            asyncio.create_task(emitter.aemit("custom", "p", "my.type", {"n": n}))
            for n in range(100)
        ]
        await asyncio.to_thread(log.attempted.wait)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(give_up())
    assert not emitter._outbox._watches
    log.up.set()
    assert emitter.close(60)
    assert len(log.written) == 100
