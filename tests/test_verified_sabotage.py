"""The verifier finds an edge that does one thing wrong, and no other thing, on the real road."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from edge_harness import EdgeProcess
from verifier.expectation import Log
from verifier.faults import edge_ready
from verifier.judge import Fault, Verdict, faults
from verifier.load import Load
from verifier.plan import Mood, Plan
from verifier.recorder import record
from verifier.sabotage import SABOTAGES
from verifier.soak import Scenario, judge_folder, plan_viewers
from verifier.topic import Pace, read_topic, write_load

from tailrace.cli.ports import free_ports

FOUND = {
    "record-skipped": Fault.LOST_FACT,
    "frame-twice": Fault.REPEATED,
    "barrier-ignored": Fault.LOST_STATE,
    "chain-not-extended": Fault.BROKEN_CHAIN,
}
HONEST = "nothing"

_PROGRAM = "import sys; sys.path.insert(0, {!r}); from verifier import sabotage; sabotage.main()"
_PADDING = 10_000
_SEED, _VIEWERS, _RATE, _SECONDS = 7, 32, 400, 3.0
_MOODS: tuple[Mood, ...] = ("stalling", "dropping")
_DEADLINE_S = 60.0
_AFTER_S = 1.0


class Sabotaged:
    """Edges on one topic, each with its own fault or with none, and viewers of each."""

    def __init__(self, servers: str, topic: str, folder: Path) -> None:
        self._servers = servers
        self._topic = topic
        self._folder = folder
        self._load = Load(_SEED, padding=_PADDING)
        scenario = Scenario(seed=_SEED, seconds=_SECONDS, viewers=_VIEWERS, moods=_MOODS)
        self._plans = plan_viewers(scenario, self._load)
        self._connected = {name: asyncio.Event() for name in (HONEST, *SABOTAGES)}

    async def verdicts(self) -> dict[str, list[Verdict]]:
        """Return what is found, by the edge's fault."""
        names = [HONEST, *SABOTAGES]
        async with AsyncExitStack() as stack:
            edges = [
                await stack.enter_async_context(self._edge(name, port))
                for name, port in zip(names, free_ports(len(names)), strict=True)
            ]
            await asyncio.gather(*map(edge_ready, edges))
            await self._watch(dict(zip(names, edges, strict=True)))
        log = Log(await read_topic(self._servers, self._topic))
        return {name: list(judge_folder(log, self._folder / name).values()) for name in names}

    async def _watch(self, edges: dict[str, EdgeProcess]) -> None:
        """Write while everybody watches, until all viewers of the honest edge have seen all."""
        recording = {
            name: asyncio.create_task(self._record(name, edge)) for name, edge in edges.items()
        }
        try:
            for connected in self._connected.values():
                await connected.wait()
            await write_load(self._servers, self._topic, self._load, Pace(_RATE, _SECONDS))
            await recording[HONEST]
            await asyncio.wait(recording.values(), timeout=_AFTER_S)
        finally:
            for task in recording.values():
                task.cancel()  # some wait for what their edge will never send
            await asyncio.gather(*recording.values(), return_exceptions=True)

    def _edge(self, name: str, port: int) -> EdgeProcess:
        here = str(Path(__file__).parent)
        program = ("-c", _PROGRAM.format(here), *([] if name == HONEST else [name]))
        return EdgeProcess(
            self._servers, self._topic, port, program=program, session_buffer_bytes=1 << 12
        )

    async def _record(self, name: str, edge: EdgeProcess) -> None:
        folder = self._folder / name
        folder.mkdir()
        plan = Plan([edge.url], _SEED, _DEADLINE_S, self._plans)
        await record(plan, folder, self._connected[name].set)


async def test_each_fault_of_an_edge_is_found_and_an_honest_one_has_none(
    kafka: str, topic: str, tmp_path: Path
) -> None:
    verdicts = await Sabotaged(kafka, topic, tmp_path).verdicts()

    found = {
        name: faults([violation for verdict in of_edge for violation in verdict.violations])
        for name, of_edge in verdicts.items()
    }
    assert found.pop(HONEST) == {}
    assert {n: f for n, f in FOUND.items() if not found[n][f]} == {}, found
