"""The curve of the history that a callback monitors: the training or another callback writes it."""

from __future__ import annotations

from fastmlp import checks


def checked_monitor(monitor: str | None) -> str | None:
    """Return the name of a curve that a callback is to go by, or None; TypeError for what is no name."""
    if monitor is None:
        return None
    checks.instance("monitor", monitor, str, "a name that is in the history")
    return checks.plain(monitor)


class Monitor:
    """A curve of the history as one callback reads it.

    reader : the callback's class, for errors
    name : of the curve; None takes "validation_loss" where there is validation, else "loss"
    history : of the run, the live one
    """

    def __init__(self, reader: str, name: str | None, history: dict[str, list[float]]) -> None:
        validated = "validation_loss" in history
        if name == "validation_loss" and not validated:
            raise ValueError(f"{reader}(monitor='validation_loss') needs fit(validation=...)")
        self.name = ("validation_loss" if validated else "loss") if name is None else name
        self._reader, self._history = reader, history
        self._seen = len(history.get(self.name, []))

    def latest(self, epoch: int) -> float:
        """Return the value of the epoch that has just ended; ValueError if there is no new one."""
        values = self._history.get(self.name, [])
        if len(values) <= self._seen:
            raise ValueError(
                f"{self._reader}(monitor={self.name!r}) finds no value of epoch {epoch}: a callback that "
                f"writes it comes before {self._reader}; the history has: {', '.join(self._history)}"
            )
        self._seen = len(values)
        return float(values[-1])
