"""Charts of the tables of docs/speed.md and docs/second-order.md, drawn while the site is built.

`python docs/chart.py` draws README's pictures: the chart of README's table, a training and a table's report.
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import train_test_split

import fastmlp

PEERS = {"JAX": "#1baf7a", "PyTorch": "#eb6834", "scikit-learn": "#2a78d6"}
INK = {"light": "#33322e", "dark": "#d8d7d2"}
INKED = "text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"


def rows(page):
    """The first table of a page's text: a dict for each row, by the words of its heading."""
    heading, _, *lines = re.search(r"(?:^\|.*\|\n)+", page, re.M)[0].splitlines()
    names, *cells = ([cell.strip(" *") for cell in line.strip("|").split("|")] for line in (heading, *lines))
    return [dict(zip(names, row, strict=True)) for row in cells]


def pictures(folder, name, figsize, columns=1):
    """Yield axes and ink for a light and a dark page; then write NAME-light.svg or NAME-dark.svg."""
    for mode, ink in INK.items():
        # Letters stay letters: the file is a fifth as large, and says the table's numbers.
        letters = {"svg.hashsalt": mode, "svg.fonttype": "none", "font.size": 11}
        with plt.rc_context({**dict.fromkeys(INKED, ink), **letters}):
            figure, axes = plt.subplots(1, columns, figsize=figsize, layout="constrained")
            yield axes, ink
            figure.savefig(folder / f"{name}-{mode}.svg", transparent=True, metadata={"Date": None})
            plt.close(figure)


def draw(page, folder, name="speed"):
    """Write NAME-light.svg and NAME-dark.svg: peers' times over fastmlp's as bars, log scale."""
    works = [row for row in rows(page) if all(row[peer] for peer in PEERS)]
    at = np.arange(len(works))
    for axis, ink in pictures(folder, name, (8, 0.62 * len(works) + 1)):
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


METHODS = {"LM": "#2a78d6", "L-BFGS": "#1baf7a", "Adam": "#eb6834", "PyTorch LM": "#8a63d2"}


def draw_losses(page, folder):
    """Write losses-light.svg and losses-dark.svg: what methods come to in the same time, log scale."""
    _, found, table = page.partition("<!-- second order:")
    works = [row for row in rows(found + table) if all(row.get(method) for method in METHODS)]
    at = np.arange(len(works))
    for axis, ink in pictures(folder, "losses", (8, 0.3 * len(works) + 1.2)):
        losses = [[max(float(row[method]), 1e-16) for method in METHODS] for row in works]
        axis.hlines(at, np.min(losses, axis=1), np.max(losses, axis=1), color=ink, linewidth=0.5)
        for (method, colour), values in zip(METHODS.items(), np.transpose(losses), strict=True):
            axis.scatter(values, at, s=40, color=colour, label=method, zorder=3)
        axis.set(xscale="log", ylim=(len(works) - 0.4, -0.6), xlabel="loss")
        axis.set_yticks(at, [row["work"] for row in works])
        axis.tick_params(left=False)
        axis.spines[:].set_visible(False)
        axis.legend(loc="upper left", bbox_to_anchor=(0, 1.14), ncols=len(METHODS), frameon=False)


def draw_results(folder):
    """Write readme-results-light.svg and -dark.svg: losses of README's network, importances of a table."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype("float32")
    network = fastmlp.Network([64, 128, 10], hidden="relu", output="softmax", loss="cross_entropy")
    model = fastmlp.fit(network, X, y, optimizer=fastmlp.Adam(0.002), epochs=20, validation=0.2, seed=0)
    rows, test = train_test_split(load_diabetes(as_frame=True, scaled=False).frame, random_state=0)
    table = fastmlp.TableRegressor(random_state=0).fit(rows, "target")
    for (left, right), ink in pictures(folder, "readme-results", (9, 3.3), columns=2):
        fastmlp.LossCurveDisplay.from_estimator(model, ax=left)
        left.set(yscale="log", title="fit: losses of digits")
        left.legend(frameon=False)
        table.plot(test, panel="importances", ax=right)
        right.set(title="TableRegressor: importances of diabetes")
        for bars in right.collections:  # black, also on a dark page
            bars.set_color(ink)


if __name__ == "__main__":
    docs = Path(__file__).parent
    draw_results(docs)
    draw((docs.parent / "README.md").read_text(encoding="utf-8"), docs, "readme")
