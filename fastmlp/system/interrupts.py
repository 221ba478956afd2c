"""Ctrl-C and SIGTERM during a training: the training ends after a chunk, and nothing is lost.

Python handles a signal between two instructions, perhaps between a chunk's steps and the bookkeeping of the
chunk. So the first signal only requests a stop, and the training ends within a chunk of 0.2 s. A second
signal acts at once, as without fastmlp. A single step of seconds runs in a thread that can be left behind.
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
"""Seconds for the end of a long call after a request to stop."""

POLL = 0.05
"""Seconds between two checks for a request to stop."""

ENDING = tuple(int(getattr(signal, name)) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name))
"""Signals with the default action of ending a process. Ctrl-Break is the signal of programs on Windows."""

SIGNALS = (int(signal.SIGINT), *ENDING)

BY_SIGINT = f"interrupted by {signal.Signals(SIGNALS[0]).name}"
"""The reason of a stop after Ctrl-C."""

REPLACED = (signal.default_int_handler, int(signal.SIG_DFL))
"""Handlers set by Python."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a training.

    Attributes
    ----------
    model : Model
        The model so far, with the history of complete epochs.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.model = model

    def __str__(self) -> str:
        return f"training was interrupted; this error's .model is {self.model!r}"


class deferred:
    """Makes the first signal of SIGNALS call stop(reason) in a `with` block; the value is the set of signals.

    Outer blocks get the signal, too. A signal of ENDING is raised again at the end of the outermost block,
    and ends the process by default. An error after a SIGINT becomes a KeyboardInterrupt with the error as
    context. Outside the main thread Python delivers no signals, and the block does nothing.
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
        """Leave signals to the program in a `with` block; the block may end in another thread."""
        self._restore()
        self.before = {}
        try:
            yield
        finally:
            self._install()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            # A program with a handler of the error would otherwise go on after Ctrl-C.
            if isinstance(error, Exception) and signal.SIGINT in self.received:
                raise KeyboardInterrupt
        finally:
            self._restore()
            for number in self.received.intersection(ENDING):
                if self._around(number) is None:
                    signal.raise_signal(number)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        # A second signal acts at once, as without fastmlp: the handlers of before are restored first.
        if self.received:
            self._restore()
            signal.raise_signal(number)
            return
        self.received.add(number)
        self.stop(f"interrupted by {signal.Signals(number).name}")
        if (around := self._around(number)) is not None and not around.received:
            around(number, frame)

    def _around(self, number: int) -> deferred | None:
        """Return the block around this block: of a training with a callback, or of a call."""
        handler = self.before.get(number)
        return handler if isinstance(handler, deferred) else None

    def _install(self) -> None:
        # Only the main thread may set handlers.
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
    """A call did not end in time, and goes on in a thread without a waiting caller."""


def until_stopped(call: Callable[[], Result], stopped: Callable[[], bool]) -> Result:
    """Return call(); raise LeftBehind if the call runs on for PATIENCE after stopped() became true.

    The call runs in a separate thread, because Python handles no signal while the main thread computes. A
    call left behind goes on to the end, so the call's arrays must not be used again. The process waits for
    the call before the exit: a BLAS unloaded during a computation crashes.
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
            # Patience counts from the request to stop on, and not from the beginning of the call.
            left -= time.perf_counter() - began
        if not ended and left <= 0:
            raise LeftBehind
    if errors:
        raise errors.pop()
    return results.pop()
