"""Progress bars of what is not one training: reading a file, several trainings in a row, a search."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fastmlp.system.notices import Notices
from fastmlp.training.callbacks import Callback, Run

if TYPE_CHECKING:
    from tqdm import tqdm


SECONDS = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s"
"""How a bar of time looks, whose rate is known."""

CLOCK = "{desc}: {elapsed}"
"""How a bar looks where nobody knows how much is to do."""

BEAT = 0.5
"""Seconds between two drawings of a bar's clock, so that it moves also where one step takes long."""


class Bar:
    """A bar on stderr, or none; a context manager that closes it.

    total : how much there is to do, in `unit`; None where only the time is known
    shown : None shows it if stderr is a terminal
    """

    def __init__(self, total: float | None, unit: str, what: str, shown: bool | None) -> None:
        self._bar: tqdm[Any] | None = None
        self._ended = threading.Event()
        notices = Notices()
        if notices.isatty() if shown is None else shown:
            from tqdm import tqdm

            looks: dict[str, Any] = {"unit": unit, "unit_scale": True}
            if total is None or unit == "s":
                looks = {"bar_format": CLOCK if total is None else SECONDS}
            self._bar = tqdm(
                total=total, desc=what, file=notices, dynamic_ncols=True, leave=False, **looks
            )  # fmt: skip
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()

    def move(self, done: float, what: str | None = None, **shown: str) -> None:
        """Set how much is done in all, what goes on now, and values to show beside it."""
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


class Visits(Callback):
    """Moves a bar by the rows that a training has visited.

    before : rows that earlier trainings visited; whole : rows that this one visits if nothing ends it early
    """

    def __init__(self, bar: Bar, what: str, before: float) -> None:
        self.bar, self.what, self.before = bar, what, before

    def on_chunk_end(self, run: Run) -> None:
        """Move the bar."""
        shown = {key: f"{values[-1]:.4g}" for key, values in run.history.items() if values}
        self.bar.move(self.before + run.rows_seen, f"{self.what}, epoch {run.epoch}/{run.epochs}", **shown)

    def on_train_end(self, run: Run) -> None:
        """Count what an early end leaves out."""
        self.bar.move(self.before + run.rows * run.epochs)
