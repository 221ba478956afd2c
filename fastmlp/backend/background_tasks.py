"""Tasks of the background process, by name: it runs nothing else.

`fastmlp.system.background` starts that process, which imports this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastmlp.backend import auto, lanes, registry, tuning
from fastmlp.kernels.jit import store
from fastmlp.kernels.runtime.preparing import prepare
from fastmlp.model.descriptions import restored
from fastmlp.model.layout import parameter_count


def take_part(
    name: str, network: Any, optimizer: Any, dtype: str, rows: list[int], predicted: Sequence[int] = (1,)
) -> None:
    """Do what `request_partner` requests, unless another process does: pieces are compiled once.

    network, optimizer : as `with_formulas` describes them; predicted : numbers of rows to predict
    """
    with store.only_partner() as alone:
        if not alone:
            return
        backend = registry.get(name)
        network, optimizer = restored(network), restored(optimizer)
        prepare(backend.train_chunk, backend.predict, network, optimizer, dtype, rows)
        parameters = np.zeros(parameter_count(network), dtype)
        for count in predicted:
            inputs, out = np.zeros((count, network.n_in), dtype), np.empty((count, network.n_out), dtype)
            backend.predict(network, parameters, inputs, out)


TASKS: dict[str, Callable[..., Any]] = {
    "compile": auto.compile_in_background,
    "compile lanes": lanes.compile_in_background,
    "take part": take_part,
    "tune": tuning.tune_in_background,
}
"""The tasks by their names in requests; they take arguments of JSON's types."""
