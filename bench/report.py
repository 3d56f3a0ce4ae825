"""What is left of the runs: medians and spread as Markdown, everything as JSON, and histograms."""

import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.plot import plot
from bench.scenario import Scenario
from bench.trial import Outcome, hdr

__all__ = ["Report", "Result"]

_BUSY_CORES = 0.9
"""Of a core: beyond it the load generator may be what is measured."""
_SHARE = "share_of_floor"
"""The floor's CPU per delivery / this row's, both of the same repetition."""


class Result(NamedTuple):
    """All repetitions of a row."""

    name: str
    ours: bool
    outcomes: Sequence[Outcome]

    def values(self, figure: str) -> list[float]:
        """Return a figure of each repetition that has it."""
        return [o.figures[figure] for o in self.outcomes if figure in o.figures]

    def medians(self) -> dict[str, float]:
        """Return the median of each figure."""
        names = {name: None for o in self.outcomes for name in o.figures}
        return {name: statistics.median(self.values(name)) for name in names}

    def faults(self) -> dict[str, int]:
        """Return what went wrong, all repetitions together."""
        names = {name: None for o in self.outcomes for name in o.faults}
        return {name: sum(o.faults.get(name, 0) for o in self.outcomes) for name in names}

    def histogram(self, name: str) -> list[tuple[int, int]]:
        """Return one histogram of all repetitions."""
        return [pair for o in self.outcomes for pair in o.histograms.get(name, ())]


class Report(NamedTuple):
    """The runs of a command."""

    title: str
    scenario: Scenario
    head: Mapping[str, str]
    results: Sequence[Result]

    def save(self, folder: Path) -> None:
        """Write ``report.md``, ``report.json``, ``facts.svg`` and a ``.hgrm`` per histogram."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(self.markdown())
        (folder / "report.json").write_text(self.json())
        curves = {r.name: hdr(found) for r in self.results if (found := r.histogram("facts"))}
        if curves:
            (folder / "facts.svg").write_text(plot(self.title, curves))
        for result in self.results:
            for name in ("facts", "states", "connect", "live"):
                if found := result.histogram(name):
                    self._save_histogram(folder / f"{_slug(result.name)}.{name}.hgrm", found)

    @staticmethod
    def _save_histogram(path: Path, counted: Sequence[tuple[int, int]]) -> None:
        with path.open("wb") as out:
            hdr(counted).output_percentile_distribution(out, 1000.0)  # in milliseconds

    def json(self) -> str:
        """Return all figures of all repetitions; histograms are in their own files."""
        runs = {
            r.name: {
                "medians": r.medians(),
                "repetitions": [o.figures for o in r.outcomes],
                "faults": r.faults(),
            }
            for r in self.results
        }
        whole = {"scenario": self.title, "about": self.scenario.about, "head": self.head}
        return json.dumps({**whole, "rows": runs}, indent=2) + "\n"

    def markdown(self) -> str:
        """Return the report for people: median, and the spread where there were repetitions."""
        shown = [
            f for f in (*self.scenario.shown, _SHARE) if any(r.values(f) for r in self.results)
        ]
        lines = [
            f"# {self.title}: {self.scenario.about}",
            "",
            *(f"- {name}: {text}" for name, text in self.head.items()),
            "",
            "| | " + " | ".join(shown) + " | faults |",
            "|---" * (len(shown) + 2) + "|",
            *(self._line(result, shown) for result in self.results),
            "",
            *self._void(),
            *self.scenario.summary({r.name: r.medians() for r in self.results}),
            *(f"Aim: {aim}" for aim in self.scenario.aims),
        ]
        return "\n".join(lines) + "\n"

    def _void(self) -> Iterator[str]:
        """Yield a warning for each row that tells of the load generator more than of its server."""
        for result in self.results:
            share = max(result.values("generator_cores"), default=0.0)
            if share > _BUSY_CORES:
                yield f"VOID: {result.name}: the load generator used {share:.2f} of its core"

    @staticmethod
    def _line(result: Result, shown: Sequence[str]) -> str:
        cells = [_cell(result.values(figure)) for figure in shown]
        faults = ", ".join(f"{name} {count:,}" for name, count in result.faults().items())
        return f"| {result.name} | " + " | ".join(cells) + f" | {faults or 'none'} |"


def with_shares(results: Sequence[Result], floors: Mapping[str, str | None]) -> list[Result]:
    """Return the results with their share of the floor, repetition by repetition.

    Args:
        results: Of all rows.
        floors: Row -> the row it is compared with.
    """
    by_name = {result.name: result for result in results}

    def shared(result: Result) -> Result:
        floor = by_name.get(floors.get(result.name) or "")
        if floor is None:
            return result
        pairs = zip(result.outcomes, floor.outcomes, strict=True)
        return result._replace(outcomes=[_shared(own, least) for own, least in pairs])

    return [shared(result) for result in results]


def _shared(own: Outcome, floor: Outcome) -> Outcome:
    cost, least = (o.figures.get("cpu_us/delivery") for o in (own, floor))
    if not cost or not least:
        return own
    return own._replace(figures={**own.figures, _SHARE: least / cost})


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = _number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
