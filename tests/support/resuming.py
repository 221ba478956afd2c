"""What tests of trainings that stop and go on share."""

import numpy as np

from fastmlp import Callback


def assert_same(model, whole):
    """Two models have the same bits, history and reason to stop."""
    np.testing.assert_array_equal(model.parameters, whole.parameters)
    assert model.history == whole.history
    assert model.stop_reason == whole.stop_reason


class StopAt(Callback):
    """Stops after so many steps."""

    def __init__(self, step):
        self.step = step

    def on_chunk_end(self, run):
        if run.step == self.step:
            run.stop("pulled the plug")
