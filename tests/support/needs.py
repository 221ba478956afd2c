"""What a test needs of the system: marks that skip it where that is not, with the reason.

Windows is known by what it lacks and not by its name, so that a process on Linux can be made to lack it, too
(`tests/system/test_portability.py`).
"""

import os
import platform
import shutil
import sys

import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PATIENCE = 600
"""Seconds after which what another process or thread does is taken for hung: ten times what it takes here."""


def posix(what):
    """Skip on Windows; `what` of POSIX the test uses, in words."""
    return pytest.mark.skipif(not hasattr(os, "fork"), reason=f"needs POSIX: {what}")


def linux(what):
    """Skip on all systems but Linux; `what` of it the test uses, in words."""
    here = hasattr(os, "fork") and sys.platform.startswith("linux")
    return pytest.mark.skipif(not here, reason=f"needs Linux: {what}")


forks = posix("forks")
kills = posix("signals that one process sends to another")
locks = posix("locks that go with their holder")
modes = posix("modes, owners and kinds of files")
reads_proc = linux("/proc")

EMULATOR = shutil.which("qemu-x86_64") if platform.machine() in ("x86_64", "AMD64") else None

emulator = pytest.mark.skipif(EMULATOR is None, reason="no qemu of x86: Debian's package is qemu-user")
compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium: Debian's package is chromium")
