"""scikit-learn: networks as estimators, and estimators as networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import checks
from fastmlp.exchange.steps import folded, refuse_others
from fastmlp.model.layout import dense_views
from fastmlp.model.network import Network
from fastmlp.trained.portable import Parts

HIDDEN = {"identity": "identity", "relu": "relu", "sigmoid": "logistic", "tanh": "tanh"}
"""scikit-learn's names of activations."""

OUTPUTS = {
    "identity": ("identity", "mse"),
    "exp": ("exp", "poisson_deviance"),
    "softmax": ("softmax", "cross_entropy"),
    "logistic": ("sigmoid", "binary_cross_entropy"),
}
"""Output and loss, by scikit-learn's `out_activation_`."""


def to_sklearn(network: Network, parameters: NDArray[Any], classes: ArrayLike | None) -> Any:
    """Return a fitted `MLPClassifier` or `MLPRegressor` of scikit-learn with a copy of the parameters."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    network, parameters = folded(network, parameters)
    refuse_others(network, "a scikit-learn estimator")
    for layer, name in enumerate(network.activations[:-1]):
        if name not in HIDDEN:
            raise ValueError(
                f"scikit-learn has no counterpart of {name!r} (hidden layer {layer}); "
                f"it has: {', '.join(HIDDEN)}"
            )
    names = {HIDDEN[str(name)] for name in network.activations[:-1]} or {"relu"}
    if len(names) > 1:
        raise ValueError(
            "scikit-learn has one activation for all hidden layers, the network has "
            + ", ".join(sorted(names))
        )
    ours = {output: theirs for theirs, (output, _) in OUTPUTS.items()}
    regresses = network.output in ("identity", "exp")
    options: dict[str, Any] = {"hidden_layer_sizes": network.widths[1:-1], "activation": names.pop()}
    if regresses:
        options["loss"] = "poisson" if network.output == "exp" else "squared_error"
    made = (MLPRegressor if regresses else MLPClassifier)(**options)
    if regresses and classes is not None:
        raise ValueError(
            f"classes are for a network whose output is sigmoid or softmax, this one's is {network.output!r}"
        )
    if not regresses:
        made._label_binarizer = binarizer(network, classes)
        made.classes_ = made._label_binarizer.classes_
    views = dense_views(parameters.copy(), network)
    made.coefs_, made.intercepts_ = [w for w, _ in views], [b for _, b in views]
    made.n_features_in_, made.n_outputs_, made.n_layers_ = (network.n_in, network.n_out, len(network.widths))
    made.out_activation_ = ours[network.output]
    made.n_iter_ = made.t_ = 0
    return made


def binarizer(network: Network, classes: ArrayLike | None) -> Any:
    """Return a LabelBinarizer for a network's outputs.

    classes : (k,) labels in the order of the outputs, two for a single output; None for whole numbers from 0.
        For several outputs of sigmoid, the names of a row's possible labels.
    """
    from sklearn.preprocessing import LabelBinarizer

    units = network.n_out
    count = 2 if units == 1 else units
    labels = np.arange(count) if classes is None else np.asarray(classes)
    if network.output not in ("softmax", "sigmoid"):
        raise ValueError(f"a classifier's output must be softmax or sigmoid, got {network.output!r}")
    if labels.shape != (count,):
        raise ValueError(f"classes must be {count} labels for {units} outputs, got shape {labels.shape}")
    if not (labels[1:] > labels[:-1]).all():
        raise ValueError(
            f"classes must ascend, as scikit-learn keeps them, got {checks.shown(labels.tolist())}"
        )
    several = network.output == "sigmoid" and units > 1
    made = LabelBinarizer().fit(np.eye(units, dtype=int) if several else labels)
    if network.output == "softmax" and units == 2:
        # scikit-learn predicts two classes by one output.
        made.y_type_ = "multiclass"
    made.classes_ = labels
    return made


def from_sklearn(given: Any) -> Parts:
    """Return the network of a fitted `MLPClassifier` or `MLPRegressor` of scikit-learn.

    TypeError or ValueError for another estimator, or an estimator without a fit.
    """
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(given, (MLPClassifier, MLPRegressor)):
        raise TypeError(
            "estimator must be an MLPClassifier or MLPRegressor of scikit-learn's, got "
            f"{checks.shown(given)}; of a Pipeline or a search, pass the fitted step;"
            " fastmlp's own have it as model_"
        )
    check_is_fitted(given)
    output, loss = OUTPUTS[given.out_activation_]
    ours = {theirs: name for name, theirs in HIDDEN.items()}
    sizes = [len(given.coefs_[0]), *map(len, given.intercepts_)]
    network = Network(
        sizes, ours[given.activation], output, loss, l2=float(given.alpha), convention="sklearn"
    )
    return network, list(zip(given.coefs_, given.intercepts_, strict=True))
