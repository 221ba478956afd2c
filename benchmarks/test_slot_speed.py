"""Every slot of every variant on the table's cases and sizes, held to the reference, then timed.

The rows are the lab's, `fastmlp.lab.slot_times`: a variant is timed where its compiled slot is not the very
function of its base. `fastmlp bench` has the rates beside the times, and what the machine can do.
"""

from __future__ import annotations

import pytest

from fastmlp.backend.registry import variants
from fastmlp.lab.machine import DTYPES
from fastmlp.lab.slot_times import has_its_own, kernel_of, slot_rows, subnormals_flushed
from fastmlp.testing.slots import SLOTS


def rows():
    for row in slot_rows(list(SLOTS), DTYPES, ()):
        for variant in variants():
            if has_its_own(variant, row.slot):
                name = "-".join(filter(None, [row.slot, row.case, str(row.sizes), variant, row.dtype]))
                yield pytest.param(row, variant, id=name)


@pytest.fixture
def _subnormals_flushed():
    with subnormals_flushed():
        yield


@pytest.mark.usefixtures("_subnormals_flushed")
@pytest.mark.parametrize(("row", "variant"), list(rows()))
def test_slot(benchmark, rounds, row, variant):
    kernel, case = kernel_of(variant, row.slot), row.made()
    arguments = case.fresh()
    case.check(arguments, kernel(*arguments))

    def again():
        """Slots that work in place get their first input again in every round."""
        for position in case.written:
            arguments[position][...] = case.arguments[position]
        return arguments, {}

    def call():
        kernel(*again()[0])

    label = " ".join(filter(None, ["slot", row.slot, row.case, row.dtype, str(row.sizes)]))
    benchmark.group = f"{label}, threads 1"
    benchmark.pedantic(kernel, setup=again, rounds=rounds(call), warmup_rounds=1)
