"""Runs the compiling processes of an installation or a wheel, into the package's folder.

`python -m fastmlp.cli.prebuilding FOLDER host` makes a user's first calls, and stores the compiled code.
`python -m fastmlp.cli.prebuilding FOLDER LEVEL..` compiles all code of `fused` and `packed`, perhaps for
other processors. The processes run `fastmlp.cli.ahead`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from fastmlp import checks
from fastmlp.kernels.codegen import machine
from fastmlp.kernels.codegen.machine import LEVELS
from fastmlp.kernels.jit import store
from fastmlp.model.state import DTYPES
from fastmlp.system.budget import cores

HOST = "host"
"""In place of a level: the level of this processor."""

ALL = "all"
"""In place of levels: the levels of all processors with the same system."""

OF_A_LEVEL = """
import sys
from fastmlp.kernels.codegen.machine import compile_for
compile_for(sys.argv[1])
from fastmlp.cli.ahead import write
write(sys.argv[2])
"""

OF_FIRST_CALLS = """
import sys
from fastmlp.cli.ahead import make_first_calls
for task in sys.argv[1:]:
    make_first_calls(*task.split())
"""


def main() -> int:
    """Write the files of the host, or of each level; a process for each level, all at a time."""
    folder, *levels = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    if levels == [HOST]:
        return write_first_calls(folder)
    if levels == [ALL]:
        levels = levels_of(machine.processor()[0])
    try:
        for alone in {HOST, ALL} & {*levels}:
            raise ValueError(f"{alone!r} goes with no other level")
        for level in levels:
            checks.choice("level", level, (HOST, ALL, *LEVELS))
            if not machine.processor()[0].startswith(LEVELS[level].triples):
                raise ValueError(f"the level {level!r} cannot be compiled for on {platform.machine()}")
    except ValueError as mistake:
        print(f"FASTMLP_PREBUILD: {mistake}", file=sys.stderr)
        return 2
    return run((OF_A_LEVEL, level, folder) for level in levels)


def levels_of(triple: str) -> list[str]:
    """Return the possible best levels of a system's processors, by LLVM's name of the system."""
    found = []
    for name, level in LEVELS.items():
        if triple.startswith(level.triples):
            found.append(name)
            if not level.features:  # every such processor meets it, and takes no later one
                break
    return found


def run(programs: Iterable[tuple[str, ...]], **environment: str) -> int:
    """Run programs in separate processes, all at a time; return the highest exit code."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    variables = {**inherited, store.SWITCH: "0", **environment}
    running = [subprocess.Popen([sys.executable, "-c", *program], env=variables) for program in programs]
    return max(process.wait() for process in running)


def write_first_calls(folder: str) -> int:
    """Write the code of first calls; return the exit code. Processes share compiled code."""
    count = min(cores(), len(FIRST_TASKS))
    with tempfile.TemporaryDirectory() as cache:
        tasks = [" ".join(task) for task in FIRST_TASKS]
        programs = [(OF_FIRST_CALLS, *tasks[index::count]) for index in range(count)]
        if code := run(programs, **{store.SWITCH: "1", store.VARIABLE: cache}):
            return code
        for file in Path(cache, "fastmlp").glob("*.*.*"):
            shutil.copyfile(file, Path(folder, file.name))
    level = machine.level() or "this processor"
    print(f"fastmlp: compiled {len(os.listdir(folder))} files of machine code for {level}")
    return 0


FIRST_TASKS = [*product(("dense", "sparse", "tiles"), DTYPES)]
"""Kinds of calls, with each dtype: of two processes each has a dtype."""


if __name__ == "__main__":
    sys.exit(main())
