"""What a run emits: every event, its moment and its place, all from a seed."""

import heapq
import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from tailrace.schemas import Event

__all__ = ["Plan", "project_name"]

_STAGE_UPDATES = 100
"""Updates of a job between two transitions, which are never replaced."""
_ENVELOPE_BYTES = 240
"""An event JSON without its filler, about."""


def project_name(number: int) -> str:
    """Return the id of a project."""
    return f"p{number}"


class Plan(NamedTuple):
    """An open loop: event n of a class is due at start + n / rate, whatever became of the others.

    Facts are completions, states are updates of jobs. Both go round the projects, each round in
    another order.
    """

    projects: int = 1
    facts: float = 0.0
    """Per second, all projects together."""
    states: float = 0.0
    """Per second, all projects together."""
    seconds: float = 10.0
    """From the first event to the last, the warm-up included."""
    size: int = 300
    """Bytes of an event JSON, about; not less than its envelope."""
    jobs: int = 200
    """Identities of the states, all projects together."""
    seed: int = 1

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the plan of `to_json`."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Return it as the argument of a process."""
        return json.dumps(self._asdict())

    @property
    def facts_each(self) -> int:
        """How many facts each project gets."""
        return round(self.facts * self.seconds / self.projects)

    @property
    def events_each(self) -> int:
        """How many events each project gets."""
        return self.facts_each + round(self.states * self.seconds / self.projects)

    @property
    def total(self) -> int:
        """How many events there are."""
        return self.events_each * self.projects

    def events(self, start_us: int) -> Iterator[tuple[int, Event]]:
        """Yield each event with the moment when it is due, in microseconds, in that order."""
        randomness = random.Random(self.seed)
        filler = "".join(randomness.choices("abcdefghij ", k=max(1, self.size - _ENVELOPE_BYTES)))
        states_each = self.events_each - self.facts_each
        merged = heapq.merge(
            _moments(self.projects, self.facts_each, self.facts, randomness, is_fact=True),
            _moments(self.projects, states_each, self.states, randomness, is_fact=False),
        )
        facts, counts = [0] * self.projects, [0] * self.projects
        jobs_each = max(1, self.jobs // self.projects)
        for at, is_fact, project in merged:
            due = start_us + round(at * 1e6)
            counts[project] += 1
            facts[project] += is_fact
            place = (due, project, counts[project], facts[project] if is_fact else 0)
            yield due, _event(place, counts[project] % jobs_each, jobs_each, filler)


def _moments(
    projects: int, each: int, rate: float, randomness: random.Random, *, is_fact: bool
) -> Iterator[tuple[float, bool, int]]:
    order = list(range(projects))
    for turn in range(each):
        randomness.shuffle(order)
        for nth, project in enumerate(order):
            yield (turn * projects + nth) / rate, is_fact, project


def _event(place: tuple[int, int, int, int], job: int, jobs: int, filler: str) -> Event:
    due, project, n, f = place
    body: dict[str, Any] = {"id": f"j{job}", "status": "completed" if f else "running"}
    stage = f"s{n // (jobs * _STAGE_UPDATES)}"
    data = (
        f'{{"job":{{"id":"{body["id"]}","status":"{body["status"]}","stage":"{stage}",'
        f'"due":{due},"p":{project},"n":{n},"f":{f},"text":"{filler}"}}}}'
    )
    return Event(
        event_id=f"018bcfe5-{project:04x}-7000-8000-{n:012d}",
        type="ingest.job.completed" if f else "ingest.job.updated",
        occurred_at=due,
        project_id=project_name(project),
        kind="ingest",
        run_id=body["id"],
        entity_id=body["id"],
        source="bench",
        seq=n,
        status=body["status"],
        stage=stage,
        progress=None,
        error_message=None,
        data=data,
    )
