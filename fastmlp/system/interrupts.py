"""Ctrl-C and SIGTERM while a training runs: the training ends after its chunk, and nothing is lost.

Python handles a signal between two of its instructions. These may be a chunk's steps and the bookkeeping that
belongs to them. So the first signal only stops the training, which ends within a chunk of 0.2 s. A
second signal acts at once, as it would without fastmlp. A single step of seconds runs in a thread that can be
left behind.
"""

from __future__ import annotations

# What `signal` wraps, which makes enumerations of handlers: 15 us of a training. Python 3.11 to 3.13 have it.
import _signal  # type: ignore[import-not-found]
import contextvars
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")

PATIENCE = 0.3
"""Seconds that a long call may still take once its training has been requested to stop."""

POLL = 0.05
"""Seconds between two checks whether a training has been requested to stop."""

ENDING = tuple(int(getattr(signal, name)) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name))
"""Signals that end a process by default. Ctrl-Break is how a program on Windows ends another."""

SIGNALS = (int(signal.SIGINT), *ENDING)

BY_SIGINT = f"interrupted by {signal.Signals(SIGNALS[0]).name}"
"""Why a training stops after Ctrl-C."""

REPLACED = (signal.default_int_handler, int(signal.SIG_DFL))
"""Handlers that Python has set."""


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


class deferred:
    """Makes the first signal of SIGNALS call stop(reason) in a `with` block, and gives the signals that came.

    Blocks around it get the signal, too. One of ENDING is raised again at the end of the outermost, where it
    ends the process by default. An error after a SIGINT becomes a KeyboardInterrupt with that error as its
    context: a program that catches the error would otherwise go on after Ctrl-C. Outside the main thread
    Python delivers no signals, and this does nothing.
    """

    def __init__(self, stop: Callable[[str], None]) -> None:
        self.stop = stop
        self.before: dict[int, Any] = {}
        self.received: set[int] = set()

    def __enter__(self) -> set[int]:
        self._install()
        return self.received

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Leave signals to the program in a `with` block, which may end in another thread."""
        self._restore()
        self.before = {}
        try:
            yield
        finally:
            self._install()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if isinstance(error, Exception) and signal.SIGINT in self.received:
                raise KeyboardInterrupt
        finally:
            self._restore()
            for number in self.received.intersection(ENDING):
                if self._around(number) is None:
                    signal.raise_signal(number)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.received:
            self._restore()
            signal.raise_signal(number)
            return
        self.received.add(number)
        self.stop(f"interrupted by {signal.Signals(number).name}")
        if (around := self._around(number)) is not None and not around.received:
            around(number, frame)

    def _around(self, number: int) -> deferred | None:
        """Return the block around this one: of the training in whose callback this one runs, or of a call."""
        handler = self.before.get(number)
        return handler if isinstance(handler, deferred) else None

    def _install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            handler = _signal.getsignal(number)
            # A handler of the program's own stays.
            if handler in REPLACED or isinstance(handler, deferred):
                self.before[number] = _signal.signal(number, self)

    def _restore(self) -> None:
        for number, handler in self.before.items():
            _signal.signal(number, handler)


class LeftBehind(Exception):
    """A call did not end in time. It goes on in its thread, and nobody waits for its result."""


def until_stopped(call: Callable[[], Result], stopped: Callable[[], bool]) -> Result:
    """Return call(); raise LeftBehind if it does not end within PATIENCE after stopped() has become true.

    The call runs in a thread of its own, because Python handles no signal while its main thread computes. A
    call that is left behind goes on to its end, so nobody else may use the arrays that it writes. The process
    waits for it before it exits: a BLAS that is unloaded while it computes crashes.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    # A bare lock that only the thread releases. A second Ctrl-C may raise its error anywhere here. Within the
    # code of a Future or a Thread it would leave locks held, and the thread would wait for them for ever.
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
