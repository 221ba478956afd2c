"""What other programs' models are read into: layers, with what is between them as expressions."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.exchange.formulas import named
from fastmlp.formulas.expressions import VARIABLE, Expression
from fastmlp.model.activations import HIDDEN, OUTPUTS, Activation
from fastmlp.model.losses import LOSSES, Loss
from fastmlp.model.network import Network

Array = NDArray[Any]


class Layer(NamedTuple):
    """An affine layer.

    before : what the layer before it ends in, an expression of its z (`formulas.Z`); of the first layer that
        variable itself
    weights : (n_in, n_out) floating; bias : (n_out,) floating
    dropout : the probability that an input of it is dropped in training
    """

    before: Expression
    weights: Array
    bias: Array
    dropout: float = 0.0


class Chain(NamedTuple):
    """Layers, first to last, and what the last one ends in."""

    layers: list[Layer]
    last: Expression


class Parts(NamedTuple):
    """What a model is made of."""

    network: Network
    weights: list[Array]
    biases: list[Array]


def parts_of(what: str, chain: Chain, output: str | None, loss: str | Loss | None) -> Parts:
    """Return a chain as a network with its parameters.

    Parameters
    ----------
    output : the last activation, where the chain ends in logits; None for the one that is there
    loss : None for the one that goes with the output

    Raises
    ------
    ValueError
        If there is no layer, or if it ends in what no network ends in.
    """
    layers = chain.layers
    if not layers:
        raise ValueError(f"{what} has no layer")
    if layers[0].before.operation != VARIABLE:
        raise ValueError(f"{what} changes its inputs before the first layer, which no Network does")
    hidden = [_hidden(place, layer.before) for place, layer in enumerate(layers[1:], 1)]
    ends_in = named(chain.last)
    if ends_in not in OUTPUTS:
        raise ValueError(
            f"{what} ends in {ends_in or 'a formula of its own'}; choose from: {', '.join(OUTPUTS)}"
        )
    if output is not None and ends_in not in ("identity", output):
        raise ValueError(f"{what} ends in {ends_in}, got output={checks.shown(output)}")
    output = output or ends_in
    sizes = [layers[0].weights.shape[0], *(layer.weights.shape[1] for layer in layers)]
    for place, layer in enumerate(layers):
        if layer.weights.shape[0] != sizes[place]:
            raise ValueError(
                f"layer {place} of {what} takes {layer.weights.shape[0]} units, got {sizes[place]}"
            )
    network = Network(
        sizes, hidden, output, loss or natural_loss(output), dropout=[layer.dropout for layer in layers[1:]]
    )
    return Parts(network, [layer.weights for layer in layers], [layer.bias for layer in layers])


def natural_loss(output: str) -> str:
    """Return the first loss that goes with this output alone, else the first that goes with it."""
    fits = [name for name, entry in LOSSES.items() if output in entry.outputs]
    return next((name for name in fits if LOSSES[name].outputs == (output,)), fits[0])


def _hidden(place: int, expression: Expression) -> str | Activation:
    """Return the activation that an expression is: one of fastmlp's own, or one made of it."""
    name = named(expression)
    if name in HIDDEN:
        return str(name)
    if name is not None:
        raise ValueError(
            f"{name} cannot be the activation of a hidden layer; choose from: {', '.join(HIDDEN)}"
        )
    return Activation(f"formula_{expression.digest[:8]}", lambda z: expression)
