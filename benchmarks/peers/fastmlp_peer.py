"""fastmlp as a user calls it: one fit of many epochs through the public API."""

import numpy as np

import fastmlp

from .works import make_data, make_start

VERSION = getattr(fastmlp, "__version__", "unknown")


def unsupported(work):
    return ""


def ways(work, threads, shuffle=True):
    """Name to prepare() -> run(epochs), which trains afresh and returns the last epoch's mean loss."""
    return {"fit": lambda: _prepare(work, threads, shuffle)}


def prepare_predict(work, threads):
    return _fit(work, *make_data(work), epochs=1, threads=threads, rate=0.0).predict


def _prepare(work, threads, shuffle):
    X, y = make_data(work)

    def run(epochs):
        model = _fit(work, X, y, epochs=epochs, threads=threads, shuffle=shuffle and not work.full_batch)
        return float(np.asarray(model.history["loss"])[-1])

    return run


def _fit(work, X, y, *, epochs, threads, shuffle=False, rate=None):
    network = fastmlp.Network(list(work.sizes), hidden=work.hidden, output=work.output, loss=work.loss)
    return fastmlp.fit(
        network,
        X,
        y,
        optimizer=_optimizer(work.optimizer, rate),
        epochs=epochs,
        batch_size=work.batch,
        shuffle=shuffle,
        seed=0,
        initial=make_start(work),
        backend="auto",
        threads=threads,
    )


def _optimizer(o, rate):
    rate = o.rate if rate is None else rate
    if o.kind == "adam":
        return fastmlp.Adam(rate, beta1=o.beta1, beta2=o.beta2, epsilon=o.eps)
    return fastmlp.SGD(rate) if o.bias_rate is None else fastmlp.SGD(rate, bias_learning_rate=o.bias_rate)
