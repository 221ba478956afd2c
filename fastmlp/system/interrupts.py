"""Ctrl-C and SIGTERM while a training runs: it ends at its chunk's end, whole, and nothing is lost.

Python hears a signal between two instructions of its own, which may be anywhere between a chunk's
compiled steps and the bookkeeping that belongs to them. So the first signal only asks to stop, which
a chunk of 0.2 s answers; a second one acts at once, as it would have without us. What may take longer,
a single step of seconds, runs in a thread that can be left behind.
"""

from __future__ import annotations

import contextlib
import contextvars
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")

PATIENCE = 0.3
"""Seconds that a long call is given to end once its training shall stop."""

POLL = 0.05
"""Seconds between two looks at whether it shall."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a training.

    Attributes
    ----------
    model : Model
        What the training had come to, with the history of its complete epochs.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.model = model

    def __str__(self) -> str:
        return f"training was interrupted; this error's .model is {self.model!r}"


class _Handler:
    """Hears the signals for one training."""

    def __init__(self, stop: Callable[[str], None]) -> None:
        self.stop = stop
        self.before: dict[signal.Signals, Any] = {}
        self.heard: set[int] = set()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.heard:
            self.restore()
            signal.raise_signal(number)
            return
        self.heard.add(number)
        self.stop(f"interrupted by {signal.Signals(number).name}")

    def install(self) -> None:
        for number in SIGNALS:
            handler = signal.getsignal(number)
            # A program that handles a signal itself goes on doing so. Ours is that of a training
            # in whose callback this one runs.
            if handler in (signal.default_int_handler, signal.SIG_DFL) or isinstance(handler, _Handler):
                self.before[number] = signal.signal(number, self)

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deferred(stop: Callable[[str], None]) -> Iterator[set[int]]:
    """Have the first SIGINT or SIGTERM call stop(reason); yield the set of signals that came.

    A SIGTERM is raised again at the end: by default it then ends the process. A SIGINT before an
    error is a KeyboardInterrupt with that error as its context, lest whoever bears the error go on.
    Outside the main thread, where Python delivers no signals, this does nothing.
    """
    handler = _Handler(stop)
    if threading.current_thread() is threading.main_thread():
        handler.install()
    try:
        yield handler.heard
    except Exception:
        if signal.SIGINT in handler.heard:
            raise KeyboardInterrupt  # noqa: B904  # the error is no cause of it
        raise
    finally:
        handler.restore()
        if signal.SIGTERM in handler.heard:
            signal.raise_signal(signal.SIGTERM)


class LeftBehind(Exception):
    """A call did not end in time, and goes on without anybody who waits for it."""


def until_stopped(call: Callable[[], Result], stopped: Callable[[], bool]) -> Result:
    """Return call(); raise LeftBehind if stopped() came true and the call did not end within PATIENCE.

    It runs in a thread of its own, since Python hears no signal while its main thread computes. A call that
    is left behind goes on to its end, for which the process waits before its own, since a BLAS that is torn
    down while it computes crashes; so all that it writes to must be its own.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    # A bare lock, which only the thread opens: a second Ctrl-C may raise its error anywhere here, and within
    # a Future's or a Thread's own bookkeeping it leaves locks behind that the thread then waits at for ever.
    running = threading.Lock()
    running.acquire()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            running.release()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    try:
        thread.start()
    except RuntimeError:  # "can't start new thread"
        return call()
    left, ended = PATIENCE, False
    while not ended:
        began = time.perf_counter()
        ended = running.acquire(timeout=POLL)
        if stopped():
            left -= time.perf_counter() - began
        if not ended and left <= 0:
            raise LeftBehind
    if errors:
        raise errors.pop()
    return results.pop()
