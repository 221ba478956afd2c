"""From naive loops to the machine's limit: python -m benchmarks.ladder, --write for docs/how-it-is-fast.md.

The same steps by Python's loops, by NumPy, and by each compiled backend, on one thread in float32. They take
turns, and a step's time is the least of whole trainings, by the CPU's clock.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastmlp
from fastmlp.backend import registry
from fastmlp.kernels.variant import Work
from fastmlp.kernels.variants import baseline
from fastmlp.lab import machine, peak
from fastmlp.lab.timing import CLOCKS, in_alternation, once, repeats_for

from .peers.page import number
from .table import write_between

PAGE = Path(__file__).parents[1] / "docs" / "how-it-is-fast.md"
BEGIN, END = "<!-- ladder: python -m benchmarks.ladder --write -->\n", "<!-- end of ladder -->"

LEAST_SECONDS = 0.1
"""What a training lasts at least, of which the checks of its data are a small part."""


class Climb(NamedTuple):
    """A training whose step is timed on every rung."""

    sizes: tuple[int, ...]
    batch: int
    rows: int
    optimizer: object

    def __str__(self):
        return f"{'-'.join(map(str, self.sizes))} b{self.batch}"


CLIMBS = (
    Climb((3, 4, 1), 4, 4, fastmlp.SGD(1.2, bias_learning_rate=0.3)),
    Climb((64, 128, 10), 32, 1792, fastmlp.SGD(0.1)),
    Climb((784, 128, 10), 128, 3200, fastmlp.SGD(0.1)),
)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ladder", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each backend; default %(default)s")
    parser.add_argument("--write", action="store_true", help="into the page")
    options = parser.parse_args()
    head = f"Microseconds a step, least of {options.rounds} turns, on {machine.cpu()}."
    text = f"{head}\n\n{table(options.rounds)}\n\n"
    print(text)
    if options.write:
        write_between(PAGE, BEGIN, END, text)


def table(rounds):
    """A row a rung and a column a training."""
    columns = {str(climb): microseconds(climb, rounds) for climb in CLIMBS}
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for rung in next(iter(columns.values())):
        lines.append(f"| {rung} | {' | '.join(number(times[rung]) for times in columns.values())} |")
    return "\n".join(lines)


def microseconds(climb, rounds):
    """Microseconds of a step by the rung's name, the slowest rung first."""
    times = {"Python's loops": interpreted(climb)}
    steps = {name: step_of(climb, name) for name in fastmlp.backends() if name in SHIPPED}
    times |= {name: time.best for name, time in in_alternation(steps, least=rounds).items()}
    of_all = Work(climb.sizes, climb.batch, 4, 1).flops / (peak.prepare("float32", 1)(0.5)[1] * 1e9)
    return {name: 1e6 * seconds for name, seconds in {**times, "the limit": of_all}.items()}


SHIPPED = ("reference", *registry.shipped())
"""The backends that are shipped."""


def interpreted(climb):
    """Seconds of the products of a step by baseline's loops, as Python runs them without a compiler.

    They take nearly all of it, and grow with the rows: four are enough.
    """
    rng, rows, seconds = np.random.default_rng(0), min(4, climb.batch), 0.0
    draw = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    for layer, (n_in, n_out) in enumerate(zip(climb.sizes, climb.sizes[1:], strict=False)):
        x, w, b, out = draw(rows, n_in), draw(n_in, n_out), draw(n_out), draw(rows, n_out)
        products = [partial(baseline.affine, x, w, b, None, out)]
        products.append(partial(baseline.weight_gradient, x, out, None, w))
        products += [partial(baseline.input_gradient, out, w, None, x)] * (layer > 0)
        seconds += sum(once(product, CLOCKS["cpu"]) for product in products)
    return seconds * climb.batch / rows


def step_of(climb, backend):
    """Return a function that gives the seconds of a step, of a training long enough to be timed."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((climb.rows, climb.sizes[0]), np.float32)
    y = rng.integers(0, climb.sizes[-1], climb.rows)
    output, loss = ("softmax", "cross_entropy") if climb.sizes[-1] > 1 else ("sigmoid", "mse")
    train = partial(
        fastmlp.fit, fastmlp.Network(climb.sizes, output=output, loss=loss), X, y, optimizer=climb.optimizer,
        batch_size=climb.batch, seed=0, progress=False, backend=backend, threads=1, dtype=np.float32,
    )  # fmt: skip
    epochs = repeats_for(lambda epochs: train(epochs=epochs), LEAST_SECONDS)
    steps = epochs * -(-climb.rows // climb.batch)
    return lambda: once(partial(train, epochs=epochs), CLOCKS["cpu"]) / steps


if __name__ == "__main__":
    main()
