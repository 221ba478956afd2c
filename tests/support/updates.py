"""An optimiser's step by itself, along a gradient of the test's."""

import numpy as np

from fastmlp.backend import reference, registry
from fastmlp.kernels.runtime.session import Session


def update(name, network, optimizer, state, rates, nonzero_columns=None):
    """Apply the gradient of a state by a backend at two rates; return the state after the step."""
    if registry.is_reference(name):
        return reference.update(network, optimizer, state, *rates, nonzero_columns)
    session = Session(registry.entries(name), network, state.parameters.dtype, None, optimizer)
    marks = {} if nonzero_columns is None else {"nonzero_columns": nonzero_columns}
    session.set({
        "parameters": state.parameters, "gradients": state.gradients, "moments": state.moments,
        "step": state.step, "steps": 1, "rates": np.array([rates]), **marks,
    })  # fmt: skip
    session.run("update")
    return state.at(state.step + 1)
