"""A background process and its requests, for which nobody waits.

`call` begins one at once. With `request` a machine has one at most: what is to be done is written to a
directory as a file, and whoever holds the directory's lock does it, file after file. The lock goes with its
holder. A request that nobody took, as its process was killed, is taken by the next.

A request is JSON: the name of a task, and its arguments. Nothing can be requested but the tasks of one table.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastmlp import BACKGROUND_TASKS
from fastmlp.system import locks
from fastmlp.system.budget import cores
from fastmlp.system.private_directory import PrivateDirectory, opened

SWITCH = "FASTMLP_BACKGROUND"
"""The environment variable that turns it off if it is 0."""

TABLE = BACKGROUND_TASKS
"""The module whose TASKS map the names in requests to functions; imported by the process that does them."""

BEGIN = """
import sys
_, directory, table, *places = sys.argv
sys.path[:] = places  # before any import: the working directory need not be among them
from fastmlp.system.background import begin
begin(directory, table)
"""

MOST_BYTES = 1 << 14
"""Bytes that such a process reads: a pipe takes that much before anybody reads it."""

LEAST_CORES = 2
"""Fewer cores than this start no background process."""

ENDING = ".request"

ENVIRONMENT = {"FASTMLP_GENERIC": "0"}
"""Environment variables of the background process: it compiles for this very processor."""


def is_possible(usable: int | None = None) -> bool:
    """Return whether there can be a background process, on so many cores; None for all that it has."""
    enabled = os.environ.get(SWITCH) != "0" and locks.EXIST
    return enabled and _has_interpreter() and (cores() if usable is None else usable) >= LEAST_CORES


def _has_interpreter() -> bool:
    """Whether `sys.executable` takes code: a frozen program, or one that embeds Python, would begin anew."""
    return not getattr(sys, "frozen", False) and "py" in os.path.basename(sys.executable or "").lower()


def request(directory: PrivateDirectory, name: str, task: str, *arguments: Any) -> bool:
    """Have a task done by a background process; return whether that may happen.

    name : of the request; one of that name that waits already is enough
    task : a name of `TABLE`; arguments : of JSON's types
    """
    request, content = f"{name}{ENDING}", json.dumps([task, *arguments]).encode()
    try:
        if not directory.has(request):
            temporary = f"{name}.{os.urandom(4).hex()}"
            directory.create(temporary, content)
            directory.replace(temporary, request)
        if not is_served(directory):
            _give(start_process(str(directory.path)), b"")
    except OSError:
        return False
    return True


def call(task: str, *arguments: Any) -> subprocess.Popen[bytes] | None:
    """Have a task done by a process of its own, at once; return it, or None if that cannot happen.

    task, arguments : as for `request`
    """
    content = json.dumps([task, *arguments]).encode()
    if len(content) > MOST_BYTES:
        return None
    try:
        process = start_process("")
        _give(process, content)
    except OSError:
        return None
    return process


def is_served(directory: PrivateDirectory) -> bool:
    """Return whether a background process takes the requests of a directory."""
    with serving_lock(directory) as held:
        return not held


def _give(process: subprocess.Popen[bytes], content: bytes) -> None:
    """Write all that a process reads."""
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(content)


def serving_lock(directory: PrivateDirectory) -> contextlib.AbstractContextManager[bool]:
    """Hold the directory's lock, if nobody else does; give whether."""
    return locks.alone(directory, "background.lock")


def start_process(directory: str) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, which neither Ctrl-C nor the end of this process ends.

    directory : of the requests that it does; "" for the one that it reads
    """
    nothing = subprocess.DEVNULL
    places = [place for place in sys.path if isinstance(place, str)]
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN, directory, TABLE, *places],
        stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, start_new_session=True,
    )  # fmt: skip
    # Lest it stay as a zombie when it ends; at this process's end the thread goes.
    with contextlib.suppress(RuntimeError):  # "can't start new thread"
        threading.Thread(target=process.wait, daemon=True).start()
    return process


def begin(directory: str, table: str) -> None:
    """Serve a directory's requests, or make one call: the main function of a background process."""
    if directory:
        with contextlib.suppress(OSError):
            os.nice(19)
        os.environ.update(ENVIRONMENT)
        serve(opened(Path(directory)), importlib.import_module(table).TASKS)
    else:
        _do(sys.stdin.buffer.read(), importlib.import_module(table).TASKS)


def serve(directory: PrivateDirectory, tasks: Mapping[str, Callable[..., Any]]) -> None:
    """Do the tasks in a directory until none is left; return at once if another process does them."""
    while requests := sorted(name for name, _ in directory.files() if name.endswith(ENDING)):
        with serving_lock(directory) as held:
            if not held:
                return
            for name in requests:
                content = b""
                with contextlib.suppress(OSError):
                    content = directory.read(name)
                directory.unlink(name)
                with contextlib.suppress(Exception):  # the request is somebody's, and nobody learns of it
                    _do(content, tasks)


def _do(request: bytes, tasks: Mapping[str, Callable[..., Any]]) -> None:
    """Do a task; KeyError if there is none of its name."""
    task, *arguments = json.loads(request)
    tasks[task](*arguments)
