"""Tasks of background processes in tests, in place of compiling (`fastmlp.backend.background_tasks`)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import needs


def wait_for(path):
    """Return when there is a file, which another process makes; TimeoutError if it makes none."""
    latest = time.monotonic() + needs.PATIENCE
    while not os.path.exists(path):
        if time.monotonic() > latest:
            raise TimeoutError(f"there is no {path} after {needs.PATIENCE} s")
        time.sleep(0.02)


TASKS = {"make": os.mkdir, "wait for": wait_for, "touch": lambda path: Path(path).touch()}
