"""Compiles what wheels carry, for processors of which this one need be none.

`python -m fastmlp.cli.prebuilding FOLDER LEVEL..` writes files for each level. `fastmlp.cli.ahead` has
programs run, which name what they call as they do. Here each piece that compiled code may request is
compiled, then what these may request, until nothing is left.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.kernels.codegen.machine import LEVELS
from fastmlp.kernels.codes import ACTIVATION_CODES
from fastmlp.kernels.jit import lazy, store
from fastmlp.kernels.jit.bind import Program
from fastmlp.kernels.jit.engine import key_of_piece, undisturbed
from fastmlp.kernels.jit.entries import ENTRY_POINTS
from fastmlp.model.precision import DTYPES

BACKENDS = ("fused", "packed")
"""What serves every network, and begins a training while a program of the network alone is compiled."""

CHILD = """
import sys
from fastmlp.kernels.codegen.machine import compile_for
compile_for(sys.argv[1])
from fastmlp.cli.prebuilding import write
write(sys.argv[2])
"""


def main() -> int:
    """Write the files of each level, all at a time, in processes that compile for one each."""
    folder, *levels = sys.argv[1:]
    try:
        for level in levels:
            checks.choice("level", level, tuple(LEVELS))
            if not platform.machine().lower().replace("amd64", "x86_64").startswith(LEVELS[level].triples):
                raise ValueError(f"the level {level!r} cannot be compiled for on {platform.machine()}")
    except ValueError as mistake:
        print(f"FASTMLP_PREBUILD: {mistake}", file=sys.stderr)
        return 2
    Path(folder).mkdir(parents=True, exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    running = [
        subprocess.Popen([sys.executable, "-c", CHILD, level, folder], env={**inherited, store.SWITCH: "0"})
        for level in levels
    ]
    return max(process.wait() for process in running)


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
