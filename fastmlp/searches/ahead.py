"""Machine code that a search will call, requested before: while tasks prepare their rows a core is idle.

A search comes to its first training when all tasks wait for theirs. What the disk lacks is requested when the
first of a network's tasks does, as if all networks so far had equal shares of the tasks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from fastmlp.backend.auto import Auto
from fastmlp.many.groups import program_of, saved_together
from fastmlp.searches.call_arguments import Call, arguments_of
from fastmlp.training.plan import Plan

MOST_ROWS = 1 << 12
"""More rows are predicted in parts, by the same code."""


class Ahead:
    """The requests of a group of tasks. threads : that train"""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._seen: set[Any] = set()

    def note(self, plan: Plan, tasks: int, calls: Sequence[Call]) -> None:
        """Request what trainings like a task's first begin with, unless that has been done.

        Those that will go in lanes compile the program of these themselves.
        tasks : of the group; calls : the task's, of which some say on how many rows they score
        """
        if not isinstance(plan.backend, Auto):
            return
        key = plan.backend.program or (plan.network.widths, plan.optimizer.rule)
        if key in self._seen:
            return
        self._seen.add(key)
        trainings, program = tasks / len(self._seen), program_of(plan)
        saved = saved_together(plan, program, as_one=False) * trainings / self._threads
        if program is None or not program.is_worth(saved):
            plan.backend.request_partner(plan.backend.steps * trainings, scored_rows(calls))


def scored_rows(calls: Sequence[Call]) -> list[int]:
    """Return numbers of rows that scikit-learn's functions score on, where the calls are of such."""
    found: list[Any] = []
    for call in calls:
        with contextlib.suppress(TypeError, ValueError):  # of a function that has no signature
            found.append(arguments_of(call).get("test"))
    return sorted({min(len(rows), MOST_ROWS) for rows in found if hasattr(rows, "__len__")})
