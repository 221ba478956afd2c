"""The chart on the first page: the table of docs/speed.md as bars, drawn while the site is built."""

import re

import matplotlib.pyplot as plt
import numpy as np

PEERS = {"JAX": "#1baf7a", "PyTorch": "#eb6834", "scikit-learn": "#2a78d6"}
INK = {"light": "#33322e", "dark": "#d8d7d2"}


def rows(page):
    """The first table of a page's text: a dict for each row, by the words of its heading."""
    heading, _, *lines = re.search(r"(?:^\|.*\|\n)+", page, re.M)[0].splitlines()
    names, *cells = ([cell.strip(" *") for cell in line.strip("|").split("|")] for line in (heading, *lines))
    return [dict(zip(names, row, strict=True)) for row in cells]


def draw(page, folder):
    """Write speed-light.svg and speed-dark.svg: peers' times over fastmlp's as bars, log scale."""
    works = [row for row in rows(page) if all(row[peer] for peer in PEERS)]
    at = np.arange(len(works))
    for mode, ink in INK.items():
        colours = {"text.color": ink, "axes.edgecolor": ink, "axes.labelcolor": ink, "ytick.color": ink}
        with plt.rc_context({**colours, "svg.hashsalt": mode, "font.size": 11}):
            figure, axis = plt.subplots(figsize=(8, 0.62 * len(works) + 1), layout="constrained")
            for place, (peer, colour) in enumerate(PEERS.items()):
                beyond = [float(row[peer]) - 1 for row in works]
                bars = axis.barh(at + 0.27 * (place - 1), beyond, 0.25, left=1, color=colour, label=peer)
                axis.bar_label(bars, [row[peer] for row in works], padding=3, fontsize=9)
            axis.axvline(1, color=ink, linewidth=1)
            axis.text(1, -0.6, "fastmlp = 1", ha="left", va="bottom", fontsize=10)
            axis.set(xscale="log", xlim=(0.9, 120), ylim=(len(works) - 0.4, -0.6), xticks=[])
            axis.set_yticks(at, [row["work"] for row in works])
            axis.minorticks_off()
            axis.tick_params(left=False)
            axis.spines[:].set_visible(False)
            axis.legend(loc="lower right", frameon=False)
            figure.savefig(folder / f"speed-{mode}.svg", transparent=True, metadata={"Date": None})
            plt.close(figure)
