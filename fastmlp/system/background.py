"""Work for a process of its own beside this one, which never waits for it.

`call` begins one at once. With `ask` there is at most one on a machine: what is to be done is written to a
directory as a file, and whoever holds the directory's lock does it, file after file. The lock goes with its
holder. A request that nobody took, as its process was killed, is taken by the next.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastmlp.system import locks
from fastmlp.system.budget import cores
from fastmlp.system.renaming import replace

SWITCH = "FASTMLP_BACKGROUND"
"""The environment variable that turns it off if it is 0."""

SERVE = (
    "import sys; sys.path[:] = sys.argv[2:]\nfrom fastmlp.system.background import serve; serve(sys.argv[1])"
)

CALL = """
import sys
sys.path[:] = sys.argv[1:]  # before any import: the working directory need not be among them
import pickle
function, arguments = pickle.load(sys.stdin.buffer)
function(*arguments)
"""

MOST_BYTES = 1 << 14
"""Of what such a process reads: a pipe takes that much before anybody reads it."""

LEAST_CORES = 2
"""With one there is no beside."""


def is_possible(usable: int | None = None) -> bool:
    """Return whether there can be a process beside this one, on so many cores; None for all that it has."""
    wanted = os.environ.get(SWITCH) != "0" and locks.EXIST
    return wanted and _has_interpreter() and (cores() if usable is None else usable) >= LEAST_CORES


def _has_interpreter() -> bool:
    """Whether `sys.executable` takes code: a frozen program, or one that embeds Python, would begin anew."""
    return not getattr(sys, "frozen", False) and "py" in os.path.basename(sys.executable or "").lower()


def ask(directory: Path, name: str, function: Callable[..., Any], *arguments: Any) -> bool:
    """Have function(*arguments) called by a process beside this one; return whether that may happen.

    directory : that nobody else can write to: what lies there is unpickled and called
    name : of the request; one of that name that waits already is enough
    function : of a module that the other process can import
    """
    path, content = directory / f"{name}.request", _packed(function, arguments)
    if content is None:
        return False
    try:
        if not path.exists():
            temporary = path.with_suffix(f".{os.urandom(4).hex()}")
            temporary.write_bytes(content)
            replace(temporary, path)
        if not _is_served(directory):
            _give(_start(SERVE, str(directory)), b"")
    except OSError:
        return False
    return True


def call(function: Callable[..., Any], *arguments: Any) -> bool:
    """Have function(*arguments) called by a process of its own, at once; return whether that may happen.

    function : of a module that the other process can import
    """
    content = _packed(function, arguments)
    if content is None or len(content) > MOST_BYTES:
        return False
    try:
        _give(_start(CALL), content)
    except OSError:
        return False
    return True


def _packed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes | None:
    """Return a call as a pickle, None if it cannot be one."""
    try:
        return pickle.dumps((function, arguments))
    except Exception:  # somebody's object may raise anything
        return None


def _is_served(directory: Path) -> bool:
    with _lock(directory) as held:
        return not held


def _give(process: subprocess.Popen[bytes], content: bytes) -> None:
    """Write all that a process reads."""
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(content)


def _lock(directory: Path) -> contextlib.AbstractContextManager[bool]:
    """Hold the directory's lock, if nobody else does; give whether."""
    return locks.alone(directory / "background.lock")


def _start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a process, in a session of its own: neither Ctrl-C nor the end of this one is its matter.

    code : that finds `arguments` and then this process's path in sys.argv
    """
    nothing = subprocess.DEVNULL
    places = [place for place in sys.path if isinstance(place, str)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, *places],
        stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, start_new_session=True,
    )  # fmt: skip
    # Lest it stay as a zombie when it ends; at this process's end the thread goes.
    with contextlib.suppress(RuntimeError):  # "can't start new thread"
        threading.Thread(target=process.wait, daemon=True).start()
    return process


def serve(directory: str) -> None:
    """Do what is asked for in a directory, until nothing is left; return at once where somebody else does."""
    place = Path(directory)
    with contextlib.suppress(OSError):
        os.nice(19)
    while requests := sorted(place.glob("*.request")):
        with _lock(place) as held:
            if not held:
                return
            for path in requests:
                with contextlib.suppress(Exception):  # the request is somebody's, and nobody hears of it
                    content = path.read_bytes()
                    path.unlink()
                    function, arguments = pickle.loads(content)
                    function(*arguments)
