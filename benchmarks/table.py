"""Writes docs/backends.md's table of speeds from a benchmark run.

pytest --benchmark-only benchmarks/test_epoch_speed.py --benchmark-json=speed.json
python -m benchmarks.table speed.json
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "backends.md"
BEGIN, END = "<!-- speed: python -m benchmarks.table -->\n", "<!-- end of speed -->"
PACKAGES = ("numpy", "numba", "scipy")


def table(run):
    """The benchmark run as a Markdown table of milliseconds, a row a work and a column a backend.

    Works of one thread: of two there are rows for some backends only.
    """
    works = {}
    for row in run["benchmarks"]:
        work, _, threads = row["group"].partition(", ")
        if threads == "1 thread":
            works.setdefault(work, {})[row["params"]["backend"]] = row["stats"]["min"]
    backends = list(dict.fromkeys(name for times in works.values() for name in times))
    lines = [f"| milliseconds | {' | '.join(backends)} |", "|---" * (len(backends) + 1) + "|"]
    for work, times in works.items():
        best = min(times.values())
        cells = [cell(times[name], best) if name in times else "" for name in backends]
        lines.append(f"| {work} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(seconds, best):
    text = f"{1e3 * seconds:.3g}"
    return f"**{text}**" if seconds == best else text


def machine(run):
    info = run["machine_info"]
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    cpu = info["cpu"].get("brand_raw", info["machine"])
    return f"{cpu}, Python {info['python_version']}, {versions}"


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("file", type=Path, help="what pytest --benchmark-json wrote")
    run = json.loads(parser.parse_args().file.read_text())
    text = (
        f"Least time of a whole `fit` or `predict` on one thread in milliseconds, on {machine(run)}.\n\n"
        f"{table(run)}\n\n"
        "`x5` is five epochs, `b32` batches of 32 rows. Reproduce it with\n\n"
        "```sh\n"
        "pytest --benchmark-only benchmarks/test_epoch_speed.py --benchmark-json=speed.json\n"
        "python -m benchmarks.table speed.json\n"
        "```\n\n"
    )
    write_between(PAGE, BEGIN, END, text)


def write_between(page, begin, end, text):
    """Replace what stands in a page between two markers."""
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{text}{end}{after}")


if __name__ == "__main__":
    main()
