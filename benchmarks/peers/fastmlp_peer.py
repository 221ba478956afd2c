"""fastmlp as a user calls it: one fit of many epochs, or a `Stepper` where rows come from elsewhere."""

from functools import partial

import numpy as np

import fastmlp
from fastmlp.kernels.small.eligible import specialize

from .. import networks
from ..networks.steps import by_epochs, by_stepper

VERSION = fastmlp.__version__


def ways(work, threads, shuffle=True):
    """Name to prepare() -> run(epochs), which trains and returns the epochs' mean losses."""
    options = {"threads": threads, "shuffle": shuffle and not work.full_batch}
    found = {"fit": partial(prepare, work, **options)}
    if work.package == networks.__name__:
        found["stepper"] = lambda: by_epochs(work, by_stepper(work, threads=threads), shuffle)
    if specialize(work.network, work.optimizer, work.batch, np.dtype(work.dtype)) is not None:
        # What "auto" changes to in a training long enough; the measured ones are not.
        found["specialized"] = partial(prepare, work, **options, backend="specialized")
    return found


def prepare(work, **options):
    """Return run(epochs) of `fit`; data and start are made once."""
    fit = partial(work.fit, work.data(), initial=work.start(), **options)
    return lambda epochs: fit(epochs=epochs).history["loss"]


def prepare_predict(work, threads):
    return work.fit(work.data(), epochs=0, threads=threads).predict


def prepare_jacobian(work, threads):
    return work.fit(work.data(), epochs=0, threads=threads).jacobian
