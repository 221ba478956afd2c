"""Progress bars of work besides a single training: reading a file, trainings in a row, a search."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fastmlp.system.notices import Notices, is_watched

if TYPE_CHECKING:
    from tqdm import tqdm


SECONDS = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s"
"""The format of a bar counting seconds."""

CLOCK = "{desc}: {elapsed}"
"""The format of a bar without a total."""

BEAT = 0.5
"""Seconds between two drawings of a bar's clock, so that the clock moves during a long step."""


class Bar:
    """A bar on stderr, or none; a context manager closes the bar.

    total : the whole work, in `unit`; None if only the time is known
    shown : None shows the bar on a terminal and in a notebook
    """

    def __init__(self, total: float | None, unit: str, what: str, shown: bool | None = None) -> None:
        self._bar: tqdm[Any] | None = None
        if is_watched() if shown is None else shown:
            from tqdm import tqdm

            looks: dict[str, Any] = {"unit": unit, "unit_scale": True}
            if total is None or unit == "s":
                looks = {"bar_format": CLOCK if total is None else SECONDS}
            self._bar = tqdm(
                total=total, desc=what, file=Notices(), dynamic_ncols=True, leave=False, **looks
            )  # fmt: skip
            self._ended = threading.Event()
            self._thread = threading.Thread(target=self._beat, name="fastmlp bar", daemon=True)
            self._thread.start()

    def move(self, done: float, what: str | None = None, **shown: str) -> None:
        """Set the whole work done so far, the present work, and values for display."""
        if self._bar is not None:
            if shown:
                self._bar.set_postfix(shown, refresh=False)
            self._bar.update(min(done, self._bar.total) - self._bar.n)
            if what is not None:
                self._bar.set_description(what)

    def _beat(self) -> None:
        assert self._bar is not None
        while not self._ended.wait(BEAT):
            self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._ended.set()
            self._thread.join()
            self._bar.close()
