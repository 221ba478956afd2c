"""Atomic renames of finished files, also on Windows, where open files cannot be replaced."""

from __future__ import annotations

import os
import sys
import time

MOST_SECONDS, POLL = 1.0, 0.01
"""Seconds of tries to rename over a file opened by others, and seconds between two tries."""

KEEPS_OPEN_FILES = sys.platform == "win32"
"""True if the system neither renames, replaces nor removes an open file."""


def replace(
    source: str | os.PathLike[str], target: str | os.PathLike[str], directory: int | None = None
) -> None:
    """Rename a closed file, replacing the target.

    On Windows a reader may have the target open for some milliseconds: then the rename is tried again.
    directory : a descriptor of the directory of both names; None for paths

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
