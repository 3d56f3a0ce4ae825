import math
from pathlib import Path

import pytest

from tailrace.cli.demo_run import Outcome, documents, percentile, summary
from tailrace.cli.errors import DemoError


def test_documents_are_found_below_the_folder_but_not_in_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.md", "sub/a.txt", ".venv/c.md", "sub/.git/d.md", "e.py", "f.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [str(path.relative_to(tmp_path)) for path in documents(tmp_path)]
    assert found == ["b.md", "f.html", "sub/a.txt"]


def test_folder_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="--path"):
        documents(tmp_path)


def test_percentile_is_the_nearest_rank() -> None:
    assert [percentile(range(1, 101), share) for share in (0, 0.5, 0.99, 1)] == [1, 51, 100, 100]
    assert math.isnan(percentile([], 0.5))


def test_summary_says_what_was_lost() -> None:
    outcome = Outcome(emitted=5, delivered=4, latencies_ms=[1.0, 2.0, 3.0, 4.0])
    assert outcome.lost == 1
    assert summary(outcome) == "emitted 5 · delivered 4 · lost 1 · p50 3.0 ms · p99 4.0 ms"
