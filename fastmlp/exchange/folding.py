"""What a network's inputs are multiplied with, folded into its first layer: formats have layers only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from fastmlp.model.layout import layer_views
from fastmlp.model.network import Network


def folded(network: Network, parameters: NDArray[Any]) -> tuple[Network, NDArray[Any]]:
    """Return a network that takes inputs as they are, and the parameters that give the same outputs."""
    if network.input_scale == 1:
        return network, parameters
    own = parameters.copy()
    weights, _ = layer_views(own, network.sizes)[0]
    weights *= parameters.dtype.type(network.input_scale)
    return replace(network, input_scale=1.0), own
