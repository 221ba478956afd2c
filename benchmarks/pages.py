"""Writes the tables of speed in docs/ and README.md: python -m benchmarks.pages FILE ..

python -m benchmarks chains layers --json peers.json writes a file for docs/speed.md, README.md and its
picture. Of several files the later ones' works replace the earlier ones'.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from fastmlp.lab.measurements import read

from .calls import number

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

TITLES = {
    "jax": "JAX",
    "torch": "PyTorch",
    "torch:eager": "PyTorch, eager",
    "sklearn": "scikit-learn",
    "c": "C",
}
"""Columns by peers: a peer's best way, or the way that is named; most people write PyTorch eagerly."""

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

SHORT = ("jax", "torch", "sklearn")


def write_between(page, begin, end, text):
    """Replace what stands in a page between two markers."""
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{text}{end}{after}")


def write_table(page, name, text):
    """Replace the table of this name in a page; its marker says the command."""
    begin = next(line for line in page.read_text().splitlines() if line.startswith(f"<!-- {name}: "))
    write_between(page, f"{begin}\n", f"<!-- end of {name} -->", text)


def markdown(heading, rows):
    """Return a table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# --- fastmlp and its peers ----------------------------------------------------------------------------


def table(results):
    """Results as a Markdown table: our time and share of peak, and each peer's time over ours."""
    rows = []
    for name, peers in by_work(results).items():
        own = peers["fastmlp"]
        share = own.flops and own.flops / own.time.best / results.machine.peak[own.dtype] / own.threads
        cells = [name, number(1e6 * own.time.best)]
        cells += [f"{share:.0%}", number(1e6 * own.time.best * share)] if share else ["", ""]
        rows.append(cells + ratios(peers, TITLES))
    return markdown(["work", "fastmlp, us", "of FMA peak", "all of it would take", *TITLES.values()], rows)


def short_table(results):
    """README's table: some works, our time, and times of three peers over ours."""
    works = by_work(results)
    rows = [
        [name, number(1e6 * works[name]["fastmlp"].time.best), *ratios(works[name], SHORT)]
        for name in IN_README
    ]
    return markdown(["work", "fastmlp, us", *(TITLES[name] for name in SHORT)], rows)


def by_work(results):
    """Return the measurements of each peer by the names of works, in the order of `works.WORKS`."""
    from .works import WORKS

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


def write_peers(files):
    """Write the tables of peers, and the picture."""
    results = files[0]._replace(measurements=[one for file in files for one in file.measurements])
    versions = ", ".join(f"{name} {version}" for name, version in results.machine.versions.items())
    turns = min(one.time.rounds for one in results.measurements)
    machine = f"Least of {turns} turns on {results.machine.cpu}, {results.machine.cores} cores; {versions}."
    write_table(DOCS / "speed.md", "peers", f"{machine}\n\n{table(results)}\n\n")
    write_table(ROOT / "README.md", "peers", f"{short_table(results)}\n\n")
    subprocess.run([sys.executable, DOCS / "chart.py"], check=True)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pages", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("files", nargs="+", type=Path, help="what `python -m benchmarks --json` wrote")
    write_peers([read(path) for path in parser.parse_args().files])


if __name__ == "__main__":
    main()
