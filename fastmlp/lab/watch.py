"""A variant's file, measured anew whenever it is saved, in a process of its own: a kernel may end it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastmlp.lab.machine import MeasuredMachine
from fastmlp.lab.measurements import Results, written

POLL = 0.1
"""Seconds between two looks at the files."""

APART: dict[str, Any] = {
    "start_new_session": True,
    "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # of Windows
}
"""Options of a process that Ctrl-C in a terminal spares: it would print where it was. Who waits ends it."""


def watch(paths: Sequence[str], arguments: Sequence[str], machine: MeasuredMachine) -> None:
    """Run `fastmlp bench` with the arguments now and after every change of one of the files, until Ctrl-C."""
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder, "machine.json")
        known.write_text(written(Results(machine, [], [], [])), encoding="utf-8")
        command = [sys.executable, "-m", "fastmlp", "bench", *arguments, "--machine", str(known)]
        seen: list[int] = []
        while True:
            found = [_changed(path) for path in paths]
            if found != seen and (all(found) or not seen):  # a file that is missing at first is reported
                seen = found
                began = time.perf_counter()
                subprocess.run(command, check=False, **APART)
                print(f"{time.perf_counter() - began:.1f} s; waiting for changes, Ctrl-C ends", flush=True)
            time.sleep(POLL)


def _changed(path: str) -> int:
    """Return when a file was written, 0 while an editor replaces it."""
    try:
        return Path(path).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
