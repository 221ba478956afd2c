"""The constants that were measured on this machine: kept with its machine code, taken once in a process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from fastmlp.kernels.codegen.machine import processor
from fastmlp.kernels.jit import store
from fastmlp.kernels.tuning import table
from fastmlp.system.locks import once

SWITCH = "FASTMLP_TUNE"
"""The environment variable that turns this off if it is 0: nothing is measured, and the usual values hold."""

KEPT = f"measured constants of {processor()[1]}"
"""The name that the constants are kept under, for each package and processor."""


def is_enabled() -> bool:
    """Return whether constants may be measured and taken."""
    return os.environ.get(SWITCH) != "0"


@once
def take_kept() -> None:
    """Take the constants on the disk, before the first program runs: none may change during a training."""
    kept = store.name_of(KEPT) if is_enabled() else None
    if kept is not None:
        table.take(json.loads(kept))


def keep(values: Mapping[str, int]) -> None:
    """Write constants to the disk, for later processes."""
    store.keep_name(KEPT, json.dumps(dict(values)))
