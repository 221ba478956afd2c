"""Callbacks that are made of functions, and one that writes a curve."""

from fastmlp import Callback


def calling(**hooks):
    """Return a callback whose hooks of these names call the functions."""
    return type("Calling", (Callback,), {name: staticmethod(do) for name, do in hooks.items()})()


class Rates(Callback):
    """Writes a curve, and what the rate is once the callbacks before it have run."""

    def __init__(self, curve=None):
        self.curve, self.rates = curve, []

    def on_epoch_end(self, run):
        if self.curve is not None:
            run.history.setdefault("value", []).append(float(self.curve[run.epoch - 1]))
        else:
            self.rates.append(run.learning_rate)
