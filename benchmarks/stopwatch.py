"""The time of a training's steps alone: without the checks of its data, without what it loads or compiles."""

import time

from fastmlp import Callback


class Stopwatch(Callback):
    """seconds : from the first chunk's beginning to the last one's end"""

    seconds = 0.0

    def on_train_begin(self, run):
        self._began = time.perf_counter()

    def on_train_end(self, run):
        self.seconds = time.perf_counter() - self._began
