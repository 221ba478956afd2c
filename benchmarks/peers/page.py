"""Writes docs/speed.md's table from a run of the peers.

python -m benchmarks.peers --json peers.json
python -m benchmarks.peers.page peers.json

Of several files the later ones' works replace the earlier ones'.
"""

import argparse
import json
from pathlib import Path

from ..table import write_between

PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
BEGIN, END = "<!-- peers: python -m benchmarks.peers.page -->\n", "<!-- end of peers -->"

PEERS = {
    "jax": "JAX",
    "torch": "PyTorch",
    "torch:eager": "PyTorch, eager",
    "sklearn": "scikit-learn",
    "c": "C",
}


def table(report):
    """The report as a Markdown table: our time and share of peak, and each peer's time over ours."""
    lines = [f"| work | fastmlp, us | of FMA peak | all of it would take | {' | '.join(PEERS.values())} |"]
    lines.append("|---" * (4 + len(PEERS)) + "|")
    for work in report["works"]:
        peers = work["peers"]
        own, least = peers["fastmlp"], least_us(work)
        cells = [work["work"], number(own["us"]), share(own.get("of_peak")), number(least)]
        cells += [ratio(peers[name]["times_fastmlp"]) if name in peers else "" for name in PEERS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def least_us(work):
    """Microseconds of the work's multiply-adds at the machine's peak; None where it is not about them."""
    own = work["peers"]["fastmlp"]
    return own["us"] * own["of_peak"] if own.get("of_peak") else None


def number(value):
    """Three digits, without an exponent."""
    if value is None:
        return ""
    return f"{value:.3g}" if value < 1000 else f"{float(f'{value:.3g}'):.0f}"


def share(value):
    return "" if value is None else f"{value:.0%}"


def ratio(value):
    text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
    return f"**{text}**" if value >= 1 else text


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.page", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="what benchmarks.peers --json wrote")
    reports = [json.loads(path.read_text()) for path in parser.parse_args().files]
    report = reports[0]
    report["works"] = list({work["work"]: work for r in reports for work in r["works"]}.values())
    versions = ", ".join(
        f"{name} {v}" for name, v in report["versions"].items() if ":" not in name and name != "peak"
    )
    machine = f"Least of {report['rounds']} turns on {report['cpu']}, cores {report['cores']}; {versions}."
    write_between(PAGE, BEGIN, END, f"{machine}\n\n{table(report)}\n\n")


if __name__ == "__main__":
    main()
