"""Counts what was dropped, so that it can be told once there is a way to tell it. Pure."""

from collections import Counter

__all__ = ["OTHER", "Losses"]

OTHER = "other"
"""Where types beyond the bound are counted together."""


class Losses:
    """How many events were dropped, by type, and by project until they are told.

    Args:
        max_projects: Projects that can be told of their losses; those of further ones are in the
            totals only.
        max_types: Types counted apart in one table; further ones count as `OTHER`.
    """

    def __init__(self, *, max_projects: int = 1000, max_types: int = 64) -> None:
        self._max_projects = max_projects
        self._max_types = max_types
        self._untold: dict[str, Counter[str]] = {}
        self.total = 0
        self.by_type: Counter[str] = Counter()
        """Since the beginning."""

    def add(self, project_id: str, event_type: str) -> None:
        """Count an event that was dropped."""
        self.total += 1
        self._count(self.by_type, event_type)
        table = self._untold.get(project_id)
        if table is None:
            if len(self._untold) >= self._max_projects:
                return
            table = self._untold[project_id] = Counter()
        self._count(table, event_type)

    def untold(self) -> bool:
        """Tell whether anything was dropped since the last `tell`."""
        return bool(self._untold)

    def tell(self) -> tuple[str, dict[str, int]]:
        """Return a project and, by type, what it has lost; counted anew from then on."""
        project = next(iter(self._untold))
        return project, dict(self._untold.pop(project))

    def _count(self, table: Counter[str], event_type: str) -> None:
        known = event_type in table or len(table) < self._max_types
        table[event_type if known else OTHER] += 1
