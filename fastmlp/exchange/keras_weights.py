"""Keras: a network's arrays as the list that `set_weights` of a Keras model takes."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastmlp.exchange.steps import steps
from fastmlp.model.network import Network

LAYERS = {
    "dense": "Dense",
    "layer_norm": "LayerNormalization",
    "rms_norm": "RMSNormalization",
    "batch_norm": "BatchNormalization",
    "prelu": "PReLU",
}
"""Keras's layers of the kinds of operations that have arrays, which are in the order of the operation's."""


def weights(network: Network, parameters: NDArray[Any]) -> list[NDArray[Any]]:
    """Return copies of the arrays of all layers in their order; of a dense layer without biases one.

    Raises
    ------
    ValueError
        If the network has blocks of inputs, heads, or a layer that Keras has not.
    """
    walked = [] if network.head_names or network.blocks else steps(network, parameters.copy())
    unlike = [step.one.kind.label for step in walked if step.arrays and step.one.kind.name not in LAYERS]
    if unlike or not walked:
        raise ValueError(
            f"a list of Keras weights takes one input, one output, and {', '.join(LAYERS.values())}; "
            f"this network has {unlike[0] if unlike else network.unlike_a_chain}"
        )
    found: list[NDArray[Any]] = []
    for step in walked:
        found += [*step.arrays.values()][: None if step.one.trains_bias else 1]
    return found
