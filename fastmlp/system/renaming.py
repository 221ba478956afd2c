"""Renaming of a finished file in one step, on Windows as well, where open files cannot be replaced."""

from __future__ import annotations

import os
import sys
import time

MOST_SECONDS, POLL = 1.0, 0.01
"""How long a rename is tried where others may have the file open, and the seconds between two tries."""

KEEPS_OPEN_FILES = sys.platform == "win32"
"""Whether the system neither renames, replaces nor removes a file that anybody has open."""


def replace(
    source: str | os.PathLike[str], target: str | os.PathLike[str], directory: int | None = None
) -> None:
    """Rename a file that is closed, in place of the target where there is one.

    On Windows the target may be open, for a reader that takes some milliseconds: then it is tried again.
    directory : a descriptor of the directory in which both are; None for paths

    Raises
    ------
    OSError
        If the system refuses, on Windows for a second.
    """
    latest = time.monotonic() + MOST_SECONDS
    while True:
        try:
            os.replace(source, target, src_dir_fd=directory, dst_dir_fd=directory)
        except PermissionError:
            if not KEEPS_OPEN_FILES or time.monotonic() > latest:
                raise
            time.sleep(POLL)
        else:
            return
