import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tailrace.producers.scope import RunScope, current_scope, run_scope


def test_innermost_scope_counts_and_ends_with_its_block() -> None:
    assert current_scope() is None
    with run_scope("a"):
        with run_scope("b", kind="agent"):
            assert current_scope() == RunScope("b", "agent")
        assert current_scope() == RunScope("a", None)
    assert current_scope() is None


def test_unknown_kind_is_ignored() -> None:
    with run_scope("a", kind="nonsense"):
        assert current_scope() == RunScope("a", None)


async def test_tasks_and_to_thread_inherit_the_scope_and_plain_threads_do_not() -> None:
    seen: list[RunScope | None] = []

    async def look() -> None:
        seen.append(current_scope())

    with run_scope("a"):
        await asyncio.create_task(look())
        await asyncio.to_thread(lambda: seen.append(current_scope()))
        thread = threading.Thread(target=lambda: seen.append(current_scope()))
        thread.start()
        thread.join()
    assert seen == [RunScope("a", None), RunScope("a", None), None]


async def test_concurrent_tasks_do_not_see_each_other() -> None:
    entered = asyncio.Barrier(2)

    async def work(run_id: str) -> str:
        with run_scope(run_id):
            await entered.wait()
            scope = current_scope()
            assert scope is not None
            return scope.run_id

    assert list(await asyncio.gather(work("a"), work("b"))) == ["a", "b"]


def test_block_that_is_closed_from_another_context_does_not_fail() -> None:
    @contextmanager
    def dependency() -> Iterator[None]:
        with run_scope("a"):
            yield

    async def main() -> None:
        opened = dependency()
        await asyncio.create_task(_enter(opened.__enter__))
        opened.__exit__(None, None, None)

    async def _enter(enter: object) -> None:
        assert callable(enter)
        enter()

    asyncio.run(main())
