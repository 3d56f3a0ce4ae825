import os
import subprocess
import sys
import textwrap

from kafka_reading import read_topic

from tailrace.producers.at_exit import register, unregister


def ended(script: str, **environment: str) -> str:
    """Return what a script says on stdout, or its children do."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    ).stdout


SCRIPT = """
    import os
    from multiprocessing import get_context
    from tailrace.producers.at_exit import register, unregister

    def told():
        os.write(1, b"told")

    def work():
        register(told)
        {then}

    if {in_child}:
        child = get_context("fork").Process(target=work)
        child.start()
        child.join()
    else:
        work()
    """


def test_process_and_child_of_multiprocessing_are_told_once() -> None:
    for in_child in (False, True):
        assert ended(SCRIPT.format(then="pass", in_child=in_child)) == "told"


def test_nobody_is_told_after_unregister() -> None:
    for in_child in (False, True):
        assert ended(SCRIPT.format(then="unregister(told)", in_child=in_child)) == ""
    unregister(print)  # What was never registered is no error.
    register(print)
    unregister(print)


async def test_child_of_multiprocessing_sends_what_waits_before_it_ends(
    kafka: str, topic: str
) -> None:
    script = """
        from multiprocessing import get_context
        from tailrace.producers import emit_ingest_event

        def work(first):
            for n in range(first, first + 50):
                emit_ingest_event("p", "ingest.job.created", {"id": f"j{first}", "n": n})

        work(0)
        children = [get_context("fork").Process(target=work, args=(n,)) for n in (100, 200)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        """
    ended(
        script,
        KAFKA_BOOTSTRAP_SERVERS=kafka,
        TAILRACE_TOPIC=topic,
        TAILRACE_EXIT_MS="30000",
    )
    runs: dict[str | None, list[int]] = {}
    for read in await read_topic(kafka, topic):
        runs.setdefault(read.event.run_id, []).append(read.event.seq)
    assert runs == {run: list(range(1, 51)) for run in ("j0", "j100", "j200")}
