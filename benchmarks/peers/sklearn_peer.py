"""scikit-learn as its expert sets it: one fit of many epochs, no penalty, no early stopping, no checks.

warm_start is used only to give it the common start. fit(max_iter=epochs) pays validation
once for all epochs, which partial_fit pays on every epoch.
Its losses and gradients carry other constants than ours; `_scales` has them.
"""

import warnings
from dataclasses import replace

import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from .works import make_data, make_start, small

VERSION = sklearn.__version__

PAIRS = {("identity", "mse"), ("softmax", "cross_entropy"), ("sigmoid", "binary_cross_entropy")}


def unsupported(work):
    return "" if (work.output, work.loss) in PAIRS else f"scikit-learn has no {work.output} + {work.loss}"


def ways(work, threads, shuffle=True):
    """Name to prepare() -> run(epochs), which trains afresh and returns the last epoch's mean loss."""
    return {"fit": lambda: _prepare(work, shuffle)}


def prepare_predict(work, threads):
    model, _, _ = _model(replace(work, rows=64, batch=32), shuffle=True)
    model.coefs_, model.intercepts_ = make_start(work)
    sklearn.set_config(assume_finite=True, skip_parameter_validation=True)
    return model.predict_proba


def _prepare(work, shuffle):
    model, X, y = _model(work, shuffle)
    loss_scale, _ = _scales(work)
    sklearn.set_config(assume_finite=True, skip_parameter_validation=True)

    def run(epochs):
        model.coefs_, model.intercepts_ = make_start(work)
        model.max_iter = epochs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, y)
        return model.loss_ * loss_scale

    return run


def _scales(work):
    """Our loss over scikit-learn's, and scikit-learn's gradient over ours."""
    return (2.0, work.sizes[-1] / 2) if work.loss == "mse" else (1.0, 1.0)


def _model(work, shuffle):
    """An initialised model and its X and y."""
    o = work.optimizer
    _, gradient_scale = _scales(work)
    kind = MLPRegressor if work.loss == "mse" else MLPClassifier
    model = kind(
        hidden_layer_sizes=work.sizes[1:-1],
        activation=work.hidden,
        solver=o.kind,
        alpha=0.0,
        batch_size=work.batch,
        learning_rate="constant",
        learning_rate_init=o.rate / (gradient_scale if o.kind == "sgd" else 1),
        momentum=0.0,
        nesterovs_momentum=False,
        beta_1=o.beta1,
        beta_2=o.beta2,
        epsilon=o.eps * gradient_scale,
        max_iter=1,
        shuffle=shuffle,
        random_state=0,
        tol=0.0,
        n_iter_no_change=np.inf,
        early_stopping=False,
        warm_start=True,
    )
    X, y = make_data(work)
    if work.loss == "cross_entropy":
        # One-hot rows keep all outputs whatever labels occur, and two outputs at two classes;
        # scikit-learn takes them for independent labels until told that they are exclusive.
        y = np.eye(work.sizes[-1], dtype=int)[y]
    elif y.shape[1] == 1:
        y = y.ravel()
    few = slice(small(work).rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X[few], y[few])
    if work.loss == "cross_entropy":
        model.out_activation_ = "softmax"
    return model, X, y
