"""What is to be trained: a frozen description of a network and its objective, without arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.model.activations import HIDDEN, OUTPUTS, Activation
from fastmlp.model.initializers import BIAS_INITS, WEIGHT_INITS, Normal, check_init
from fastmlp.model.losses import LOSSES, Loss, loss_of

CONVENTIONS = ("torch", "sklearn")

LEAST_SCALE = 2.0**-149
"""The least number above 0 of float32."""

MAX_PARAMETERS = 2**31
"""A network beyond this is refused before anything is allocated: 8 GiB in float32, and its
moments and gradients as much again each."""


@dataclass(frozen=True, init=False)
class Network:
    """A multi-layer perceptron and the objective that it minimises.

    Parameters
    ----------
    sizes : sequence of int
        Units of every layer, inputs first: (n_in, hidden..., n_out), two or more of at least 1.
    hidden : str or Activation, or a sequence of them
        Activation of the hidden layers, one for all or one for each: identity, relu,
        leaky_relu, elu, gelu, silu, softplus, sigmoid, tanh, or an `Activation` of your own.
    output : str, optional
        Activation of the last layer: identity, sigmoid, softmax, exp. None: what a `Loss` of your own
        goes with, else identity.
    loss : str or Loss
        mse, mae, huber, binary_cross_entropy, cross_entropy, poisson, poisson_deviance or pinball, or
        a `Loss` or `RowLoss` of your own. Means over all elements, over rows for cross_entropy and `RowLoss`.
    dropout : float or sequence of float
        Probability in [0, 1) that a hidden unit is dropped while training; kept ones are scaled
        by 1 / (1 - p). One for all hidden layers or one for each.
    l1, l2 : float
        Penalties on the weights, not the biases: l1 * sum|w| + l2 / 2 * sum w^2 is added to the
        loss of every batch.
    huber_delta : float
        Where huber turns from quadratic to linear; above 0.
    quantile : float
        The quantile that pinball estimates, in (0, 1).
    weight_init : str or Normal
        glorot_uniform, glorot_normal, he_uniform, he_normal or `Normal(scale)`.
    bias_init : str or Normal
        zeros, uniform (within 1/sqrt(fan_in), as torch.nn.Linear) or `Normal(scale)`.
    input_scale : float
        What every input is multiplied with, in training and in predictions; above 0. 1 / 255 makes numbers
        from 0 to 1 of pixels in bytes, which are converted a few rows at a time.
    convention : str
        Whose scaling of the objective holds. "torch": what is said above. "sklearn": that of
        scikit-learn's MLPClassifier and MLPRegressor, see the notes.

    Notes
    -----
    With convention="sklearn" the penalties are divided by the sum of the batch's sample weights;
    binary_cross_entropy, poisson and poisson_deviance are sums over the outputs and means over the
    rows; mse counts half and its derivative is that of a sum over the outputs, while the value
    that is reported is a mean over them (which scikit-learn 1.9 does too: for more than one output
    its gradient is not that of its loss). It clips probabilities: the value, not the derivative, of
    a row's cross_entropy, of an element's binary_cross_entropy, lies within -log of 1 - eps and of eps.
    The loss of an epoch weights every batch with its rows, not with their sample weights.

    Raises
    ------
    ValueError, TypeError
        For a value out of range, an unknown name, or an output on which the loss is not defined.
    """

    sizes: tuple[int, ...]
    hidden: tuple[str | Activation, ...]
    output: str
    loss: str | Loss
    dropout: tuple[float, ...]
    l1: float
    l2: float
    huber_delta: float
    quantile: float
    weight_init: str | Normal
    bias_init: str | Normal
    input_scale: float
    convention: str

    def __init__(
        self,
        sizes: Sequence[int],
        hidden: str | Activation | Sequence[str | Activation] = "relu",
        output: str | None = None,
        loss: str | Loss = "mse",
        *,
        dropout: float | Sequence[float] = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        huber_delta: float = 1.0,
        quantile: float = 0.5,
        weight_init: str | Normal = "glorot_uniform",
        bias_init: str | Normal = "zeros",
        input_scale: float = 1.0,
        convention: str = "torch",
    ) -> None:
        sizes = _check_sizes(sizes)
        depth = len(sizes) - 2
        if isinstance(hidden, str):  # even if there is no hidden layer that would take it
            _check_activation(hidden)
        if isinstance(dropout, Real):
            checks.real("dropout", dropout, 0, 1, open_high=True)
        hidden = _one_per_layer("hidden", hidden, (str, Activation), depth)
        dropout = _one_per_layer("dropout", dropout, Real, depth)
        if not isinstance(loss, Loss):
            checks.choice("loss", loss, tuple(LOSSES), ", or a Loss of your own")
        entry = loss_of(loss)
        if output is None:
            output = "identity" if isinstance(loss, str) else entry.outputs[0]
        checks.choice("output", output, OUTPUTS)
        if output not in entry.outputs:
            raise ValueError(
                f"output {output!r} does not go with loss {entry.name!r}; "
                f"choose from: {', '.join(entry.outputs)}"
            )
        if entry.parameter is not None and len(entry.parameter) not in (1, sizes[-1]):
            raise ValueError(
                f"the parameter of loss {entry.name!r} must be a number or {sizes[-1]} of them, one for each "
                f"output, got {len(entry.parameter)}"
            )
        if output == "softmax" and sizes[-1] == 1:
            raise ValueError("output 'softmax' needs at least 2 output units, got sizes[-1] = 1")
        check_init("weight_init", weight_init, WEIGHT_INITS)
        check_init("bias_init", bias_init, BIAS_INITS)
        values = {
            "sizes": sizes,
            "hidden": tuple(map(_check_activation, hidden)),
            "output": output,
            "loss": loss,
            "dropout": tuple(checks.real("dropout", p, 0, 1, open_high=True) for p in dropout),
            "l1": checks.real("l1", l1, 0),
            "l2": checks.real("l2", l2, 0),
            "huber_delta": checks.real("huber_delta", huber_delta, 0, open_low=True),
            "quantile": checks.real("quantile", quantile, 0, 1, open_low=True, open_high=True),
            "weight_init": weight_init,
            "bias_init": bias_init,
            "input_scale": checks.real("input_scale", input_scale, 0, open_low=True),
            "convention": checks.choice("convention", convention, CONVENTIONS),
        }
        if input_scale < LEAST_SCALE:
            raise ValueError(f"input_scale must be above 0 in float32, too, got {checks.shown(input_scale)}")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def activations(self) -> tuple[str | Activation, ...]:
        """The activation of every layer, the output's last."""
        return (*self.hidden, self.output)

    @property
    def divisor(self) -> float:
        """What a batch's summed loss is divided by for its derivative, beside the sum of its weights."""
        entry = loss_of(self.loss)
        if entry.by_row:
            return 1.0
        if self.convention == "sklearn" and entry.sklearn_divisor is not None:
            return entry.sklearn_divisor
        return float(self.sizes[-1])

    @property
    def value_divisor(self) -> float:
        """What the loss that is reported is divided by once more; 1 if it is what is minimised."""
        return float(self.sizes[-1]) if (self.convention, self.loss) == ("sklearn", "mse") else 1.0

    @property
    def clips(self) -> bool:
        """Whether the loss that is reported is that of probabilities held within eps and 1 - eps."""
        return self.convention == "sklearn" and loss_of(self.loss).clips

    @property
    def loss_parameters(self) -> tuple[float, ...]:
        """What the loss takes for each output: huber's delta, pinball's quantile, 1 where it clips."""
        own = {"huber": self.huber_delta, "pinball": self.quantile}
        given = loss_of(self.loss).parameter or (own.get(loss_of(self.loss).name, float(self.clips)),)
        return given if len(given) == self.sizes[-1] else given * self.sizes[-1]


def _check_activation(given: object) -> str | Activation:
    if isinstance(given, Activation):
        return given
    return checks.choice("hidden activation", given, HIDDEN, ", or an Activation of your own")


def _check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    listed = isinstance(sizes, Sequence) and not isinstance(sizes, (str, bytes))
    if not listed and not (isinstance(sizes, np.ndarray) and sizes.ndim == 1):
        raise TypeError(f"sizes must be a sequence like [n_in, hidden, n_out], got {checks.shown(sizes)}")
    checked = tuple(checks.whole("every one of sizes", size, 1, MAX_PARAMETERS) for size in sizes)
    if len(checked) < 2:
        raise ValueError(f"sizes must hold at least n_in and n_out, got {checks.shown(list(checked))}")
    count = sum((n_in + 1) * n_out for n_in, n_out in pairwise(checked))
    if count > MAX_PARAMETERS:
        raise ValueError(f"sizes {checks.shown(list(checked))} make {count:.3g} parameters; at most 2^31 fit")
    return checked


def _one_per_layer(what: str, value: object, one: type | tuple[type, ...], depth: int) -> tuple[Any, ...]:
    if isinstance(value, one):
        return (value,) * depth
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, Sequence):
        raise TypeError(f"{what} must be one value or one for each hidden layer, got {checks.shown(value)}")
    if len(value) != depth:
        raise ValueError(f"{what} must hold one value for each of {depth} hidden layers, got {len(value)}")
    return tuple(value)
