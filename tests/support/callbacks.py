"""Callbacks that are made of functions."""

from fastmlp import Callback


def calling(**hooks):
    """Return a callback whose hooks of these names call the functions."""
    return type("Calling", (Callback,), {name: staticmethod(do) for name, do in hooks.items()})()
