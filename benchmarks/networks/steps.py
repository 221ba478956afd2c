"""Steps on given rows as runs of epochs, which is how all peers of `benchmarks.peers` are called."""

import numpy as np

from ..peers.works import row_orders


def by_epochs(work, steps, shuffle):
    """Return run(epochs), which goes on where the last one ended, and returns each epoch's mean loss.

    steps : steps(orders), the losses of steps on the rows that each line of orders (steps, batch) names
    """

    def run(epochs):
        orders = row_orders(work, epochs, shuffle).reshape(-1, work.batch)
        return np.reshape(steps(orders), (epochs, -1)).mean(axis=1)

    return run


def by_stepper(work, **options):
    """Return steps(orders) of a `Stepper`."""
    stepper, (x, y) = work.stepper(**options), work.data()
    dtype = stepper.parameters.dtype
    x, y = ([one.astype(dtype) if one.dtype.kind == "f" else one for one in part] for part in (x, y))

    def step(rows):
        return stepper.step(*work.given([one[rows] for one in x], [one[rows] for one in y]))

    return lambda orders: np.array([step(rows) for rows in orders])
