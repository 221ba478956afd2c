"""Tasks of the background process, by name: it runs nothing else.

`fastmlp.system.background` starts that process, which imports this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmlp.backend import auto, lanes, registry, tuning
from fastmlp.kernels.jit import store
from fastmlp.kernels.runtime.preparing import prepare
from fastmlp.model.descriptions import restored
from fastmlp.model.layout import parameter_count


def take_part(name: str, network: Any, optimizer: Any, dtype: str, rows: list[int]) -> None:
    """Do what `request_partner` requests, unless another process does: pieces are compiled once.

    network, optimizer : as `with_formulas` describes them
    """
    with store.only_partner() as alone:
        if not alone:
            return
        backend = registry.get(name)
        network, optimizer = restored(network), restored(optimizer)
        prepare(backend.train_chunk, backend.predict, network, optimizer, dtype, rows)
        n_in, n_out = network.n_in, network.n_out
        parameters, inputs = (np.zeros(shape, dtype) for shape in (parameter_count(network), (1, n_in)))
        backend.predict(network, parameters, inputs, np.empty((1, n_out), dtype))


TASKS: dict[str, Callable[..., Any]] = {
    "compile": auto.compile_in_background,
    "compile lanes": lanes.compile_in_background,
    "take part": take_part,
    "tune": tuning.tune_in_background,
}
"""The tasks by their names in requests; they take arguments of JSON's types."""
