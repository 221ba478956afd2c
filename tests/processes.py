"""Python in a process of its own, run to its end."""

from __future__ import annotations

import os
import subprocess
import sys

import needs


def python(*arguments, cwd=None, **environment):
    """Run Python with arguments; return what it printed, once it has ended well.

    environment : variables besides those of this process; None leaves one out
    """
    variables = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, env=variables, cwd=cwd, capture_output=True, text=True, timeout=needs.PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done
