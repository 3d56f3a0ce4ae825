"""Nobody loses, repeats or reorders anything while edges and brokers die: the soak, in short."""

from pathlib import Path

import pytest
from verifier.plan import Mood
from verifier.soak import Scenario, Verified, report, run

pytestmark = pytest.mark.usefixtures("local_kafka_parts")

SHORT = Scenario(
    seconds=4,
    rate=500,
    viewers=40,
    recorders=1,
    pause_s=0.5,
    journal_bytes=1 << 18,
    buffer_bytes=1 << 12,
)


async def verified(scenario: Scenario, folder: Path) -> Verified:
    """Run a scenario; nothing went wrong but what was to go wrong, and all that did."""
    verified = await run(scenario, folder)
    told = report(verified)
    assert verified.clean, told
    assert verified.faults.keys() == set(scenario.faults), told
    assert {verdict.dialect for verdict in verified.verdicts.values()} == set(scenario.dialects)
    assert len(verified.verdicts) == scenario.viewers
    for dialect in scenario.dialects:
        verdicts = [v for v in verified.verdicts.values() if v.dialect == dialect]
        assert sum(v.resumes for v in verdicts) > len(verdicts) / 2, told
        assert sum(v.skipped for v in verdicts) > len(verdicts), told
        assert min(v.facts for v in verdicts) > 0, told
    assert verified.meters.total("tailrace_replays_total") > 0, told
    assert verified.meters.total("tailrace_resumes_total{outcome=journal}") > 0, told
    assert verified.meters.total("tailrace_resumes_total{outcome=replay}") > 0, told
    return verified


async def test_an_edge_that_is_killed_and_frozen_costs_no_viewer_anything(tmp_path: Path) -> None:
    faults = ("edge-killed", "edge-frozen")
    moods: tuple[Mood, ...] = ("stalling", "trickling", "storming", "dropping")
    scenario = SHORT._replace(edges=1, moods=moods, faults=faults)

    done = await verified(scenario, tmp_path)

    assert done.meters.total("tailrace_overruns_total") > 0, report(done)


async def test_a_rolling_restart_of_two_edges_costs_no_viewer_anything(tmp_path: Path) -> None:
    scenario = SHORT._replace(seed=2, moods=("steady", "dropping", "stalling"))

    done = await verified(scenario._replace(faults=("edges-rolled",)), tmp_path)

    assert done.meters.total("tailrace_closes_total{code=1012}") > 0, "they were sent away"


async def test_a_broker_that_is_killed_costs_no_viewer_anything(tmp_path: Path) -> None:
    await verified(SHORT._replace(seed=3, faults=("broker-killed",)), tmp_path)


async def test_a_leader_that_moves_costs_no_viewer_anything(tmp_path: Path) -> None:
    scenario = SHORT._replace(seed=4, brokers=3, faults=("leader-moved",))
    await verified(scenario, tmp_path)
