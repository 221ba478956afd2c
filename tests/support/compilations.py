"""What compiles while a test runs."""

from contextlib import contextmanager

from numba.core import event


class Compilations(event.Listener):
    """Keeps the names of what Numba compiles."""

    def __init__(self):
        self.names = []

    def on_start(self, ev):
        self.names.append(ev.data["dispatcher"].py_func.__qualname__)

    def on_end(self, ev):
        pass


@contextmanager
def compilations():
    """Yield the names of what Numba compiles meanwhile."""
    listener = Compilations()
    with event.install_listener("numba:compile", listener):
        yield listener.names
