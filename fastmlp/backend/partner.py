"""A process that compiles half of what a training needs that finds nothing on the disk.

It rehearses the training's steps as the training does (`fastmlp.kernels.jit.rehearsal`): each compiles what
the other one is not at, and both load what either has compiled. While the training compiles the program that
names all the rest, this compiles what predictions need, with which most trainings go on: half is the same.
"""

from __future__ import annotations

import numpy as np

from fastmlp.backend import registry
from fastmlp.kernels.jit import store
from fastmlp.kernels.runtime.preparing import prepare
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.system import background
from fastmlp.system.budget import usable_cores


def ask(name: str, network: Network, optimizer: Optimizer, dtype: str, rows: list[int]) -> None:
    """Begin such a process, if a core is free for it and the disk keeps what it compiles.

    name : of the backend; the others as for `preparing.prepare`
    """
    if background.is_possible(usable_cores()) and store.why_not_kept() is None:
        background.call(take_part, name, network, optimizer, dtype, rows)


def take_part(name: str, network: Network, optimizer: Optimizer, dtype: str, rows: list[int]) -> None:
    """Do its work, unless such a process is there already: pieces are compiled once, by however many."""
    with store.only_partner() as alone:
        if not alone:
            return
        backend = registry.get(name)
        prepare(backend.train_chunk, backend.predict, network, optimizer, dtype, rows)
        n_in, *_, n_out = network.sizes
        parameters, inputs = (np.zeros(shape, dtype) for shape in (parameter_count(network.sizes), (1, n_in)))
        backend.predict(network, parameters, inputs, np.empty((1, n_out), dtype))
