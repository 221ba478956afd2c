"""The constants that were measured on this machine, kept with its machine code and taken once a process."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping

from fastmlp.kernels.jit import store
from fastmlp.kernels.tuning import table

SWITCH = "FASTMLP_TUNE"
"""The environment variable that turns it off if it is 0: nothing is measured, and the usual values hold."""

KEPT = "measured constants"
"""What they are kept as, beside the names of programs: by package, compiler and processor."""


def is_wanted() -> bool:
    """Return whether constants may be measured and taken."""
    return os.environ.get(SWITCH) != "0"


def is_known() -> bool:
    """Return whether this machine's are on the disk."""
    return store.names().get(KEPT) is not None


@functools.cache
def take_kept() -> None:
    """Take what is on the disk. Before the first program runs: none changes under a training."""
    kept = store.names().get(KEPT) if is_wanted() else None
    if kept is not None:
        table.take(json.loads(kept))


def keep(values: Mapping[str, int]) -> None:
    """Write them to the disk, for the processes after this one."""
    store.names().put(KEPT, json.dumps(dict(values)))
