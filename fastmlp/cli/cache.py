"""`fastmlp cache`: the directory of machine code, sizes, the files for a network, and removal."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections import Counter
from typing import Any

from fastmlp.cli.arguments import mistakes, network_of
from fastmlp.model.state import DTYPES
from fastmlp.system.private_files import PrivateDirectory

CACHED = {
    "programs": "of backends, and of single networks",
    "functions": "that programs share: matrix products, activations, losses, optimisers",
    "abandoned": "by processes that were killed",
    "locks": "between processes that compile",
}
"""The kinds of files, in the order of display."""


def add_command(commands: Any) -> None:
    """Add the command to a parser's subparsers."""
    parser = commands.add_parser(
        "cache",
        help="show where compiled code is kept, or remove it",
        description=(
            "Show the directory that compiled code is kept in between processes, how many files and bytes of "
            "which kinds there are, and how many bytes they may take. FASTMLP_CACHE_DIR names the directory, "
            "FASTMLP_CACHE_BYTES the bound, and FASTMLP_CACHE=0 keeps nothing. Of a network, train an epoch "
            "and predict, in float32 and float64; show from which folder its machine code comes, what had to "
            "be compiled, and why."
        ),
    )
    parser.set_defaults(run=_cache)
    either = parser.add_mutually_exclusive_group()
    what = "show what serves this network, as 64-128-10"
    either.add_argument("network", nargs="?", metavar="N-N-N", help=what)
    either.add_argument("--clear", action="store_true", help="remove the files")


def _cache(arguments: argparse.Namespace) -> int:
    from fastmlp.kernels.codegen import machine
    from fastmlp.kernels.jit import store

    if not arguments.clear:
        print(f"level      {machine.level() or 'none: code is for this very processor'}")
        if carried := [file.stat().st_size for file in store.CARRIED.glob("*.*.*")]:
            print(f"carried    {_shown(len(carried), sum(carried))} in {store.CARRIED}")
        with contextlib.suppress(OSError):
            print(f"installed  {(store.CARRIED / 'why.txt').read_text().strip()}")
    if arguments.network is not None:
        _show_what_serves(arguments.network)
        return 0
    try:
        folder = store.directory()
    except store.StoreUnusable as refused:
        print(f"nothing is kept: {refused}")
        return 0
    found = [*store.files(folder), *store.listed(folder, store.LOCKS)]
    if arguments.clear:
        removed = [size for _, size, name in found if _removed(folder, name)]
        print(f"removed    {_shown(len(removed), sum(removed))} of {folder.path}")
        return 0 if len(removed) == len(found) else 1
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for _, size, name in found:
        kind = _kind(name)
        counts[kind] += 1
        sizes[kind] += size
    print(f"directory  {folder.path}")
    for kind, words in CACHED.items():
        if counts[kind]:
            print(f"{kind:<9}  {_shown(counts[kind], sizes[kind])} {words}")
    print(
        f"together   {_shown(counts.total(), sizes.total())}; at most {_bytes(store.most_bytes())} are kept"
    )
    if why := store.why_not_saved():
        print(f"nothing more is kept: {why}")
    return 0


def _show_what_serves(text: str) -> None:
    """Train a network and predict; print the folders of the machine code, and the compiled functions."""
    from fastmlp.cli.ahead import ROWS, train_and_predict
    from fastmlp.kernels.jit import engine, store

    with mistakes():
        network = network_of(text)
    for dtype in DTYPES:
        train_and_predict(network, ROWS, dtype, "auto")
    folders = Counter(folder for file, folder in store.read_from.items() if file.endswith(".bin"))
    for folder, count in folders.items():
        print(f"served     {count} of {text} from {folder}")
    reasons: dict[str, list[str]] = {}
    for what, _, why in (one.rpartition(": ") for one in engine.compiled):
        reasons.setdefault(why, []).append(what.partition("-")[0])
    for why, names in reasons.items():
        print(f"compiled   {len(names)} of {text}, as {why}: {', '.join(dict.fromkeys(names))}")


def _kind(name: str) -> str:
    """Return a file's kind, of CACHED."""
    from fastmlp.kernels.jit.entries import ENTRY_POINTS

    match name.rpartition(".")[2]:
        case "bin":
            return "programs" if re.match(f"({'|'.join(ENTRY_POINTS)})[@-]", name) else "functions"
        case "tmp":
            return "abandoned"
    return "locks"


def _removed(folder: PrivateDirectory, name: str) -> bool:
    """Remove a file; return True if the file is gone."""
    with contextlib.suppress(OSError):
        folder.unlink(name)
    return not folder.has(name)


def _shown(count: int, size: int) -> str:
    return f"{count} file{'s' * (count != 1)}, {_bytes(size)}"


def _bytes(size: int) -> str:
    return (
        f"{size} bytes" if size < 1000 else f"{size / 1e3:.3g} kB" if size < 1e6 else f"{size / 1e6:.3g} MB"
    )
