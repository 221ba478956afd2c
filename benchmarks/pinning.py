"""The cores that a benchmark may use, and this process held to some of them, where the system can."""

import os


def allowed():
    """Numbers of the cores, ascending; all of the machine's on macOS and Windows, which tell no others."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(cores):
    """Have this process run on these cores only; on macOS and Windows it runs on any."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
