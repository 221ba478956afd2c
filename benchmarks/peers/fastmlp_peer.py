"""fastmlp as a user calls it: one `fit` of many epochs, or a `Stepper` where rows come from elsewhere."""

from functools import partial

import numpy as np

import fastmlp

from ..works import by_epochs

VERSION = fastmlp.__version__


def unsupported(work):
    return None


def ways(work, threads, shuffle=True, way=""):
    """See `benchmarks.peers`; a backend's name is a way, too."""
    options = {"shuffle": shuffle and not work.full_batch}
    if way in ("auto", *fastmlp.backends()):
        return {way: partial(prepare_train, work, threads, **options, backend=way)}
    found = {"fit": partial(prepare_train, work, threads, **options)}
    if not work.network.is_chain:
        found["stepper"] = lambda: by_epochs(work, _by_stepper(work, threads=threads), shuffle)
    elif _has_its_own(work):
        # What "auto" changes to in a training long enough; the measured trainings are not.
        found["specialized"] = partial(prepare_train, work, threads, **options, backend="specialized")
    return found


def _has_its_own(work):
    """Return True if there is a program for the network alone."""
    from fastmlp.kernels.small.eligible import specialize

    return specialize(work.network, work.optimizer, work.batch, np.dtype(work.dtype)) is not None


def prepare_train(work, threads, **options):
    """Return run(epochs) of `fit`; data and start are made once."""
    fit = partial(work.fit, work.data(), initial=work.start(), threads=threads, **options)
    return lambda epochs: fit(epochs=epochs).history["loss"]


def _by_stepper(work, **options):
    stepper, (X, y) = work.stepper(**options), work.data()

    def step(rows):
        return stepper.step(*work.given([one[rows] for one in X], [one[rows] for one in y]))

    return lambda orders, count: np.array([step(rows) for rows in orders])


def prepare_predict(work, threads):
    return work.fit(epochs=0, threads=threads).predict
