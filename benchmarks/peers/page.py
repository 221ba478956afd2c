"""Writes the tables of docs/speed.md and README.md from a run of the peers.

python -m benchmarks.peers --json peers.json
python -m benchmarks.peers.page peers.json

Of several files the later ones' works replace the earlier ones'.
"""

import argparse
from pathlib import Path

from fastmlp.lab.measurements import read
from fastmlp.lab.peers import PEERS

from ..table import write_between
from .works import WORKS

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- peers: python -m benchmarks.peers.page -->\n", "<!-- end of peers -->"

TITLES = {
    "jax": "JAX",
    "torch": PEERS["torch"].title,
    "torch:eager": f"{PEERS['torch'].title}, eager",
    "sklearn": PEERS["sklearn"].title,
    "c": "C",
}
"""Columns by peers: a peer's best way, or the one that is named; most people write PyTorch eagerly."""

IN_README = (
    "4-32-16-4 b32 adam",
    "30-100-1 b100 adam",
    "784-128-10 b32 sgd",
    "784-128-10 b128 adam",
    "28-256-256-2 b256 adam",
    "1024-2048-2048-10 b1024 sgd",
    "784-128-10 b128 sgd 2t",
    "predict 784-128-10",
)
"""Works of the short table, whose peers are JAX, PyTorch and scikit-learn."""


def table(results):
    """Results as a Markdown table: our time and share of peak, and each peer's time over ours."""
    lines = [f"| work | fastmlp, us | of FMA peak | all of it would take | {' | '.join(TITLES.values())} |"]
    lines.append("|---" * (4 + len(TITLES)) + "|")
    for name, peers in by_work(results).items():
        own = peers["fastmlp"]
        share = own.flops and own.flops / own.time.best / results.machine.peak[own.dtype] / own.threads
        cells = [name, number(1e6 * own.time.best)]
        cells += [f"{share:.0%}", number(1e6 * own.time.best * share)] if share else ["", ""]
        lines.append(f"| {' | '.join(cells + ratios(peers, TITLES))} |")
    return "\n".join(lines)


def short_table(results):
    """README's table: some works, our time, and times of three peers over ours."""
    names = ("jax", "torch", "sklearn")
    lines = [f"| work | fastmlp, us | {' | '.join(TITLES[name] for name in names)} |", "|---" * 5 + "|"]
    works = by_work(results)
    for name in IN_README:
        peers = works[name]
        cells = [name, number(1e6 * peers["fastmlp"].time.best), *ratios(peers, names)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def by_work(results):
    """Return the measurements of each peer by the names of works, in the order of `WORKS`."""
    found = {work.name: {} for work in WORKS}
    for one in results.measurements:
        found[one.shape][one.variant] = one
    return {name: peers for name, peers in found.items() if peers}


def ratios(peers, names):
    """Return the cells of peers: their least times over ours, bold where ours is less."""
    cells = []
    for name in names:
        times = peers[name].time.best / peers["fastmlp"].time.best if name in peers else None
        text = "" if times is None else f"{times:.2f}" if times < 10 else f"{times:.0f}"
        cells.append(f"**{text}**" if times and times >= 1 else text)
    return cells


def number(value):
    """Three digits, without an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{float(f'{value:.3g}'):.0f}"


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.page", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="what benchmarks.peers --json wrote")
    files = [read(path) for path in parser.parse_args().files]
    results = files[0]._replace(measurements=[one for file in files for one in file.measurements])
    versions = ", ".join(f"{name} {version}" for name, version in results.machine.versions.items())
    turns = min(one.time.rounds for one in results.measurements)
    machine = f"Least of {turns} turns on {results.machine.cpu}, {results.machine.cores} cores; {versions}."
    write_between(ROOT / "docs" / "speed.md", BEGIN, END, f"{machine}\n\n{table(results)}\n\n")
    write_between(ROOT / "README.md", BEGIN, END, f"{short_table(results)}\n\n")


if __name__ == "__main__":
    main()
