"""Python in a process of its own, run to its end."""

import os
import subprocess
import sys

from support import needs


def importing():
    """Return the environment of a process that imports from where this one does."""
    return {"PYTHONPATH": os.pathsep.join(sys.path)}


def complaints(done):
    """What a process wrote to stderr, but for the lines that it compiles: the cache decides over these."""
    lines = done.stderr.splitlines()
    return [line for line in lines if not line.startswith("fastmlp: compiling ")]


def python(*arguments, cwd=None, exit_code=0, **environment):
    """Run Python with arguments; return what it printed, once it has ended with the exit code.

    environment : variables besides those of this process; None leaves one out
    """
    variables = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, env=variables, cwd=cwd, capture_output=True, text=True, timeout=needs.PATIENCE, check=False
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done
