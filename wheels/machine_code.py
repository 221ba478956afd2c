"""Machine code of an installation or a wheel, compiled into the package's folder.

`python -m wheels.machine_code FOLDER host` makes a user's first calls, and stores the compiled code.
`python -m wheels.machine_code FOLDER LEVEL..` compiles all code of `fused`, perhaps for other processors:
each lazy function requested by compiled code is compiled without being run, then the lazy functions requested
by these, until none is left.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.cli.ahead import train_and_predict
from fastmlp.kernels.codegen import machine
from fastmlp.kernels.codegen.machine import LEVELS
from fastmlp.kernels.codes import ACTIVATION_CODES
from fastmlp.kernels.gemm.microkernel import compile_tiles
from fastmlp.kernels.jit import engine, lazy, store
from fastmlp.kernels.jit.bind import Program
from fastmlp.kernels.jit.entries import ENTRY_POINTS
from fastmlp.model.backend import dry_run, empty_losses
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Adam
from fastmlp.model.rows import SparseRows
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
from wheels.machine_code import write
write(sys.argv[2])
"""

OF_FIRST_CALLS = """
import sys
from wheels.machine_code import make_first_calls
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


# --- in a process that compiles ------------------------------------------------------------------------

FIRST_NETWORKS = (
    (Network([64, 128, 10], output="softmax", loss="cross_entropy"), 32),
    (Network([64, 100, 10], output="softmax", loss="cross_entropy", l2=1e-4), 200),
    (Network([30, 100, 1], output="sigmoid", loss="binary_cross_entropy", l2=1e-4), 200),
    (Network([10, 100, 1], l2=1e-4), 200),
)
"""The networks, and rows of a batch, of the first page and of the default estimators."""


def make_first_calls(kind: str, dtype: str) -> None:
    """Train and predict like a user's first calls.

    kind : of the rows, dense or sparse; or tiles, for networks of other sizes
    """
    if kind == "tiles":
        compile_tiles(dtype)
        return
    for network, rows in FIRST_NETWORKS:
        if kind == "dense":
            train_and_predict(network, rows, dtype, "fused")
        else:
            out = np.empty((rows, network.n_out), dtype)
            inputs = SparseRows.of(np.ones((rows, network.n_in), dtype))
            backend, (state, data, chunk) = registry.get("fused"), dry_run(network, Adam(), dtype, [rows])
            data = data._replace(inputs=inputs)
            backend.train_chunk(network, Adam(), state, data, chunk, 0, 1, empty_losses(network, 1))
            backend.predict(network, state.parameters, inputs, out)


def write(folder: str, dtypes: Sequence[str] = DTYPES, templates: Sequence[str] = ENTRY_POINTS) -> None:
    """Write the files of this process's level; the process must not have compiled before.

    templates : the entry points
    """
    for name, key, code in _codes(dtypes, templates):
        content = store.content_of(code)
        file = Path(folder, store.file_name(name, key))
        file.write_bytes(store.checksum_of(content) + content)


def _codes(dtypes: Sequence[str], templates: Sequence[str]) -> Iterator[tuple[str, str, store.MachineCode]]:
    """Yield name, key and machine code of each file."""
    if store.package_digest() is None:
        raise RuntimeError("the sources of fastmlp have changed since they were loaded")
    with engine.undisturbed():
        for template, dtype in product(templates, dtypes):
            source = Program(registry.get_variant("fused")).source(template)
            yield source.name, dtype, source.compiled(dtype)
        for function, key in _lazy_functions():
            code = lazy.compiled_function(function.name, function.types, key)
            yield function.name, engine.key_of_function(function.types, key), code


def _lazy_functions() -> Iterator[tuple[lazy.FunctionRequest, str]]:
    """Yield each lazy function with a key, as compiled code requests them; compile each before the next."""
    done: set[lazy.FunctionRequest] = set()
    while waiting := [one for one in lazy.requested if one not in done]:
        for function in waiting:
            done.add(function)
            for key in function.all_keys():
                # The derivative of what only an output has, as softmax, comes with its loss.
                if not function.name.startswith("activate_gradient-") or ACTIVATION_CODES.of_key(key).hidden:
                    yield function, key


if __name__ == "__main__":
    sys.exit(main())
