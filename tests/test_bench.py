"""The benchmarks, from a command to its report: counts and order, never times."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.plan import Plan
from bench.report import Result, with_shares
from bench.scenarios import SCENARIOS
from bench.trial import Outcome

ROOT = Path(__file__).resolve().parent.parent


def bench(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **env},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(shutil.which("cc") is None, reason="install a C compiler: cc")
def test_a_small_scenario_proves_order_and_completeness(kafka: str, tmp_path: Path) -> None:
    done = bench(
        *("churn", "--only", "tailrace", "--viewers", 20, "--projects", 2, "--rate", 20),
        *("--churn", 20, "--seconds", 3, "--warm-up", 0.5, "--repeat", 1, "--out", tmp_path),
        KAFKA_BOOTSTRAP_SERVERS=kafka,
    )
    assert done.returncode == 0, done.stderr
    row: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())["rows"]["tailrace"]
    assert row["faults"] == {}
    figures = row["medians"]
    assert figures["deliveries"] == 20 * 60
    assert figures["returns"] > 10
    assert figures["+tailrace_records_total"] == 2 * 60
    saved = {path.name for path in tmp_path.iterdir()}
    assert saved >= {"report.md", "report.json", "facts.svg", "tailrace.facts.hgrm"}


def test_every_scenario_has_rows_and_says_what_it_is() -> None:
    for name in SCENARIOS:
        with pytest.raises(SystemExit, match="no row begins with no such row; there are: "):
            main([name, "--only", "no such row"])


def test_a_plan_is_an_open_loop_with_dense_facts_in_each_project() -> None:
    plan = Plan(projects=3, facts=30, states=60, seconds=2, jobs=6)
    events = list(plan.events(1_000_000))
    assert len(events) == plan.total == 180
    assert [due for due, _ in events] == sorted(due for due, _ in events)
    assert 1_000_000 + 2_000_000 - 50_000 < events[-1][0] < 1_000_000 + 2_000_000
    for project in range(3):
        bodies = [json.loads(e.data)["job"] for _, e in events if e.project_id == f"p{project}"]
        assert [body["n"] for body in bodies] == list(range(1, 61))
        assert [b["f"] for b in bodies if b["f"]] == list(range(1, plan.facts_each + 1))
    assert len({event.event_id for _, event in events}) == 180
    assert events == list(plan.events(1_000_000)), "the same seed, the same events"


def test_a_share_compares_runs_of_the_same_repetition() -> None:
    def result(name: str, *costs: float) -> Result:
        outcomes = [Outcome({"cpu_us/delivery": cost}, {}, {}) for cost in costs]
        return Result(name, ours=False, outcomes=outcomes)

    _, ours = with_shares([result("floor", 4, 6), result("ours", 8, 8)], {"ours": "floor"})
    assert ours.values("share_of_floor") == [0.5, 0.75]
