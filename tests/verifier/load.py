"""Seeded records of every sort that a topic can hold, ended by markers. Pure.

Projects, kinds and runs share their ids, so that whatever mixes them up is seen. Every event's body
has a number of its own, so that a viewer's event names its record.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from urllib.parse import quote
from uuid import UUID

import orjson

from verifier.record import STATES, Run, encode

__all__ = ["PROJECT_ENDED", "RUN_ENDED", "Load", "Planned"]

RUN_ENDED: Final = "soak.run.ended"
"""The last fact of each run."""
PROJECT_ENDED: Final = "soak.project.ended"
"""The last record of each project."""

_MOMENT: Final = 1_764_000_000_000_000
_KINDS: Final = ("ingest", "agent", "workflow", "custom")
_STATES: Final = {
    "ingest": ("ingest.job.updated",),
    "agent": ("agent.run.updated", "agent.step.updated"),
    "workflow": ("workflow.run.updated", "workflow.node_state.updated"),
    "custom": ("till.drawer.moved",),
}
"""The last is of no type that Tailrace knows: its coalesce key makes it a state."""
_FACTS: Final = {
    "ingest": ("ingest.job.created", "ingest.job.failed", "shop.till.opened"),
    "agent": ("agent.message.appended", "agent.run.completed"),
    "workflow": ("workflow.node.started", "workflow.node.completed", "workflow.node.failed"),
    "custom": ("shop.till.opened", "shop"),
}
_REMEMBERED: Final = 4


class Planned(NamedTuple):
    """A record to write."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class Load:
    """Makes records; the same seed makes the same ones.

    Memory: for each run its present state, and of each project the last 4 records.

    Args:
        seed: Of all that is random.
        projects: How many; their names hold what has to be percent-encoded.
        runs: How many of each kind in each project.
        padding: Bytes that every second event is longer, so that sockets fill up.
    """

    def __init__(self, seed: int, *, projects: int = 4, runs: int = 3, padding: int = 0) -> None:
        self._padding = padding
        self._random = random.Random(seed)
        self.projects = [f"p/{n} ä" if n % 2 else f"p{n}" for n in range(projects)]
        self.runs = [Run(kind, f"r{n}") for kind in _KINDS for n in range(runs)]
        self._stages: dict[tuple[str, Run, str, str], tuple[str, str]] = {}
        self._last: dict[str, deque[Planned]] = {
            project: deque(maxlen=_REMEMBERED) for project in self.projects
        }
        self._number = 0

    def begin(self) -> Iterator[Planned]:
        """Return a first fact of each run."""
        for project in self.projects:
            for run in self.runs:
                yield self._fact(project, run, _FACTS[run.kind][0])

    def step(self) -> list[Planned]:
        """Return what is written next: mostly one record, some of them more than one."""
        project = self._random.choice(self.projects)
        run = self._random.choice(self.runs)
        [make] = self._random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        made = make(self, project, run)
        if make is not Load._retries:
            self._last[project].extend(planned for planned in made if _is_event(planned))
        return made

    def end(self) -> Iterator[Planned]:
        """Return the markers: the last fact of each run, then of each project."""
        for project in self.projects:
            for run in self.runs:
                yield self._fact(project, run, RUN_ENDED)
            yield self._fact(project, Run("custom", None), PROJECT_ENDED)

    # --- sorts of records ---------------------------------------------------------------------

    def _progress(self, project: str, run: Run) -> list[Planned]:
        """A burst of one entity's progress, which coalesces."""
        name, entity = self._entity(run)
        count = self._random.randint(1, 4)
        return [self._state(project, run, name, entity) for _ in range(count)]

    def _transition(self, project: str, run: Run) -> list[Planned]:
        name, entity = self._entity(run)
        self._move(project, run, name, entity)
        return [self._state(project, run, name, entity)]

    def _there_and_back(self, project: str, run: Run) -> list[Planned]:
        """A B A, with nothing between."""
        name, entity = self._entity(run)
        identity = (project, run, name, entity)
        before = self._stages.get(identity, ("running", "one"))
        made = [self._state(project, run, name, entity)]
        self._stages[identity] = ("waiting", before[1])
        made.append(self._state(project, run, name, entity))
        self._stages[identity] = before
        return [*made, self._state(project, run, name, entity)]

    def _some_fact(self, project: str, run: Run) -> list[Planned]:
        return [self._fact(project, run, self._random.choice(_FACTS[run.kind]))]

    def _barrier(self, project: str, run: Run) -> list[Planned]:
        """A state, a fact and the same state again: all three must come."""
        name, entity = self._entity(run)
        before = self._state(project, run, name, entity)
        fact = self._some_fact(project, run)
        return [before, *fact, self._state(project, run, name, entity)]

    def _of_the_project(self, project: str, run: Run) -> list[Planned]:
        return [self._fact(project, Run(run.kind, None), "shop.till.opened")]

    def _without_headers(self, project: str, run: Run) -> list[Planned]:
        """What a producer writes that knows only Avro."""
        name = self._random.choice([n for n in (*_STATES[run.kind], *_FACTS[run.kind]) if n])
        if name not in STATES:
            return [self._fact(project, run, name)._replace(headers=[])]
        return [self._state(project, run, name, run.run or "")._replace(headers=[])]

    def _retries(self, project: str, _: Run) -> list[Planned]:
        """The project's last records once more, in order, as after a lost acknowledgement."""
        last = list(self._last[project])
        return last[-self._random.randint(1, _REMEMBERED) :]

    def _tombstone(self, project: str, _: Run) -> list[Planned]:
        return [Planned(project.encode(), None, [])]

    def _bad(self, project: str, run: Run) -> list[Planned]:
        """A record that nobody may see, its headers sometimes as good as any."""
        name, entity = self._entity(run)
        good = self._state(project, run, name, entity)
        assert good.value is not None, "made above"
        sorts = [
            good._replace(key=None),
            good._replace(value=good.value[:20]),
            good._replace(value=b"\x07" + good.value[1:]),
            good._replace(value=self._value("elsewhere", run, name, entity)),
            good._replace(value=self._value(project, run, name, entity, data="[1]")),
            good._replace(value=b"", headers=[]),
            good._replace(value=b"no avro", headers=[("ce_type", b"\xff")]),
        ]
        return [self._random.choice(sorts)]

    # --- how they are made --------------------------------------------------------------------

    def _entity(self, run: Run) -> tuple[str, str]:
        name = self._random.choice(_STATES[run.kind])
        return name, self._random.choice([run.run or "", "e|1", "e%7C1"])

    def _move(self, project: str, run: Run, name: str, entity: str) -> None:
        status = self._random.choice(["queued", "running", "waiting"])
        self._stages[project, run, name, entity] = (status, self._random.choice(["one", "t|o"]))

    def _state(self, project: str, run: Run, name: str, entity: str) -> Planned:
        status, stage = self._stages.get((project, run, name, entity), ("running", "one"))
        value = self._value(project, run, name, entity, status, stage)
        key = "|".join(quote(part, safe="") for part in (entity, status, stage))
        headers = [*self._headers(run, name), ("ce_coalescekey", key.encode())]
        return Planned(project.encode(), value, headers)

    def _fact(self, project: str, run: Run, name: str) -> Planned:
        error = "it jams" if name.endswith("failed") else None
        value = self._value(project, run, name, run.run, error=error)
        return Planned(project.encode(), value, self._headers(run, name))

    def _headers(self, run: Run, name: str) -> list[tuple[str, bytes]]:
        return [
            ("ce_id", self._event_id().encode()),
            ("ce_type", name.encode()),
            ("ce_subject", "/".join(filter(None, run)).encode()),
        ]

    def _event_id(self) -> str:
        return str(UUID(int=self._number))

    def _value(
        self,
        project: str,
        run: Run,
        name: str,
        entity: str | None,
        status: str | None = None,
        stage: str | None = None,
        *,
        error: str | None = None,
        data: str | None = None,
    ) -> bytes:
        self._number += 1
        body = {"id": entity, "n": self._number, "status": status, "stage": stage}
        if self._padding and self._number % 2:
            body["text"] = "x" * self._padding
        return encode(
            {
                "event_id": self._event_id(),
                "type": name,
                "occurred_at": _MOMENT + self._number,
                "project_id": project,
                "kind": run.kind,
                "run_id": run.run,
                "entity_id": entity,
                "source": "load",
                "seq": self._number,
                "status": status,
                "stage": stage,
                "progress": None,
                "error_message": error,
                "data": data or orjson.dumps({"body": body}).decode(),
            }
        )


def _is_event(planned: Planned) -> bool:
    """Whether a record can be written again as a retry: it has an id of its own."""
    return planned.value is not None and planned.key is not None and bool(planned.headers)


_WEIGHTS: Final[dict[Callable[[Load, str, Run], list[Planned]], int]] = {
    Load._progress: 56,
    Load._transition: 10,
    Load._there_and_back: 8,
    Load._some_fact: 10,
    Load._barrier: 4,
    Load._of_the_project: 2,
    Load._without_headers: 3,
    Load._retries: 4,
    Load._tombstone: 1,
    Load._bad: 2,
}
"""How often each sort comes."""
