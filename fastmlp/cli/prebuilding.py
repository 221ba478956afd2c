"""Compiles what an installation or a wheel carries, into files of the package's own folder.

`python -m fastmlp.cli.prebuilding FOLDER host` makes calls as a user's first ones are, and keeps what they
compile. `python -m fastmlp.cli.prebuilding FOLDER LEVEL..` compiles all that `fused` and `packed` may call,
for processors of which this one need be none: `fastmlp.cli.ahead` has programs run, which name what they call
as they do. Here each piece that compiled code may request is compiled, then what these may request, until
nothing is left.
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
from fastmlp.fitting import fit
from fastmlp.kernels.codegen import machine
from fastmlp.kernels.codegen.machine import LEVELS
from fastmlp.kernels.codes import ACTIVATION_CODES
from fastmlp.kernels.gemm.microkernel import compile_tiles
from fastmlp.kernels.jit import lazy, store
from fastmlp.kernels.jit.bind import Program
from fastmlp.kernels.jit.engine import key_of_piece, undisturbed
from fastmlp.kernels.jit.entries import ENTRY_POINTS
from fastmlp.model.backend import dry_run, empty_losses
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Adam
from fastmlp.model.sparse import SparseRows
from fastmlp.model.state import DTYPES
from fastmlp.system.budget import cores

BACKENDS = ("fused", "packed")
"""What serves every network, and begins a training while a program of the network alone is compiled."""

HOST = "host"
"""In place of a level: the one that this processor meets."""

ALL = "all"
"""In place of levels: those of all processors that run the same system."""

OF_A_LEVEL = """
import sys
from fastmlp.kernels.codegen.machine import compile_for
compile_for(sys.argv[1])
from fastmlp.cli.prebuilding import write
write(sys.argv[2])
"""

OF_FIRST_CALLS = """
import sys
from fastmlp.cli.prebuilding import make_first_calls
make_first_calls(*sys.argv[1:])
"""


def main() -> int:
    """Write the files of the host, or of each level; a process compiles for each, all at a time."""
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
    """Return the levels that processors of a system may have as their best, by LLVM's name of the system."""
    found = []
    for name, level in LEVELS.items():
        if triple.startswith(level.triples):
            found.append(name)
            if not level.features:  # every such processor meets it, and takes no later one
                break
    return found


def run(programs: Iterable[tuple[str, ...]], **environment: str) -> int:
    """Run programs in processes of their own, all at a time; return the highest exit code."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    variables = {**inherited, store.SWITCH: "0", **environment}
    running = [subprocess.Popen([sys.executable, "-c", *program], env=variables) for program in programs]
    return max(process.wait() for process in running)


def write_first_calls(folder: str) -> int:
    """Write what first calls compile; return the exit code. Processes share what each compiles."""
    count = min(cores(), len(FIRST_TASKS))
    with tempfile.TemporaryDirectory() as cache:
        programs = [(OF_FIRST_CALLS, str(place), str(count)) for place in range(count)]
        if code := run(programs, **{store.SWITCH: "1", store.PLACE: cache}):
            return code
        for file in Path(cache, "fastmlp").glob("*.*.*"):
            shutil.copyfile(file, Path(folder, file.name))
    level = machine.level() or "this processor"
    print(f"fastmlp: compiled {len(os.listdir(folder))} files of machine code for {level}")
    return 0


FIRST_TASKS = [*product(("dense", "sparse"), DTYPES)]
"""Kinds of rows, with each dtype."""

FIRST_NETWORKS = (
    (Network([64, 128, 10], output="softmax", loss="cross_entropy"), 32),
    (Network([64, 100, 10], output="softmax", loss="cross_entropy", l2=1e-4), 200),
    (Network([30, 100, 1], output="sigmoid", loss="binary_cross_entropy", l2=1e-4), 200),
    (Network([10, 100, 1], l2=1e-4), 200),
)
"""The networks, and rows of a batch, of the first page and of the default estimators."""


def make_first_calls(place: str, count: str) -> None:
    """Do every so many of the first tasks, from a place on: train and predict as first calls do."""
    for kind, dtype in FIRST_TASKS[int(place) :: int(count)]:
        if kind == "dense":
            compile_tiles(dtype)  # of networks of all sizes
        for network, rows in FIRST_NETWORKS:
            X, y = np.ones((rows, network.n_in), dtype), np.ones((rows, network.n_out), dtype) / network.n_out
            if kind == "dense":
                model = fit(
                    network, X, y, optimizer=Adam(), epochs=1, batch_size=rows, validation=0.1, dtype=dtype,
                    backend="fused", progress=False,
                )  # fmt: skip
                model.predict(X), model.predict(X[:1])
            else:
                inputs, out = SparseRows.of(X), np.empty_like(y)
                backend, (state, data, chunk) = registry.get("fused"), dry_run(network, Adam(), dtype, [rows])
                data = data._replace(inputs=inputs)
                backend.train_chunk(network, Adam(), state, data, chunk, 0, 1, empty_losses(network, 1))
                backend.predict(network, state.parameters, inputs, out)


def write(place: str, dtypes: Sequence[str] = DTYPES, templates: Sequence[str] = ENTRY_POINTS) -> None:
    """Write the files of the level that this process compiles for; it has compiled nothing before.

    templates : the entry points
    """
    for name, key, kind, content in _files(dtypes, templates):
        file = Path(place, store.file_name(name, key, kind))
        file.write_bytes(store.checksum_of(content) + content)


def _files(dtypes: Sequence[str], templates: Sequence[str]) -> Iterator[tuple[str, str, str, bytes]]:
    """Yield name, key, kind and content, as `store.read` has them, of each file."""
    package = store.package_digest()
    if package is None:
        raise RuntimeError("the sources of fastmlp have changed since they were loaded")
    variants = [Program(registry.get_variant(name)) for name in BACKENDS]
    sources = {
        f"{name} {template}": program.source(template)
        for name, program in zip(BACKENDS, variants, strict=True)
        for template in templates
    }
    kept = {what: source.kept for what, source in sources.items()}
    for what, name in kept.items():
        yield "name", f"{package} {what}", "name", name.encode()
    programs = {source.name: source for source in sources.values()}  # both backends have some in common
    with undisturbed():
        for (name, source), dtype in product(programs.items(), dtypes):
            yield name, dtype, "bin", store.content_of(source.compiled(dtype))
        for piece, key in _pieces():
            code = lazy.compiled_piece(piece.name, piece.types, key)
            yield piece.name, key_of_piece(piece.types, key), "bin", store.content_of(code)


def _pieces() -> Iterator[tuple[lazy.PieceRequest, str]]:
    """Yield each piece, and its key, that what has been compiled may request; it is compiled in between."""
    done: set[lazy.PieceRequest] = set()
    while waiting := [one for one in lazy.requested if one not in done]:
        for piece in waiting:
            done.add(piece)
            for key in piece.all_keys():
                # The derivative of what only an output has, as softmax, comes with its loss.
                if not piece.name.startswith("activate_gradient.") or ACTIVATION_CODES.of_key(key).hidden:
                    yield piece, key


if __name__ == "__main__":
    sys.exit(main())
