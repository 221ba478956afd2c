"""Keras: a network's arrays as a list for `set_weights` of a Keras model."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastmlp.exchange.counterparts import LAYER_OF, native, native_of
from fastmlp.exchange.steps import graph_of
from fastmlp.model.network import Network


def to_keras_weights(network: Network, parameters: NDArray[Any]) -> list[NDArray[Any]]:
    """Return copies of the arrays of all layers in order; a dense layer without biases has a single array.

    ValueError if the network has blocks of inputs, heads, or a layer unknown to Keras.
    """
    plain = not network.head_names and not network.blocks
    walked = graph_of(network, parameters.copy(), format="keras").steps if plain else []
    walked = [step for step in walked if step.one.kind.key != "gather"]  # a gate's halves have no weights
    unlike = [step.label for step in walked if step.arrays and not native_of(step, "keras")[0]]
    if unlike or not walked:
        names = filter(None, (native(one, "keras")[0] for one in LAYER_OF.values()))
        raise ValueError(
            f"a list of Keras weights takes one input, one output, and {', '.join(names)}; "
            f"this network has {unlike[0] if unlike else network.unlike_a_chain}"
        )
    found: list[NDArray[Any]] = []
    for step in walked:
        found += [*step.arrays.values()][: None if step.one.trains_bias else 1]
    return found
