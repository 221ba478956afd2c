"""LossCurveDisplay: how a training went, in the manner of scikit-learn's displays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from fastmlp.checks import needed
from fastmlp.trained.model import Model


class LossCurveDisplay:
    """Plot of the training loss, the validation loss and validation scores by epoch.

    Make a display with `from_estimator`. Needs the extra `plot`.

    Parameters
    ----------
    loss : sequence of float, a value for every epoch
    validation_loss : sequence of float, optional
    validation_scores : sequence of float, optional, on a second vertical axis
    estimator_name : str, optional, goes into the legend

    Attributes
    ----------
    ax_ : matplotlib Axes, once plotted
    figure_ : its Figure
    lines_ : list of matplotlib Line2D, in the order of the parameters
    score_ax_ : matplotlib Axes of the scores, or None
    """

    def __init__(
        self,
        loss: Sequence[float],
        *,
        validation_loss: Sequence[float] | None = None,
        validation_scores: Sequence[float] | None = None,
        estimator_name: str | None = None,
    ) -> None:
        self.loss = loss
        self.validation_loss = validation_loss
        self.validation_scores = validation_scores
        self.estimator_name = estimator_name

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Any = None, name: str | None = None, **line_options: Any
    ) -> LossCurveDisplay:
        """Plot the curves of a trained network.

        Parameters
        ----------
        estimator : Model, MLPClassifier or MLPRegressor
            A model of `fit`, or a fitted estimator of fastmlp or scikit-learn. Of a Pipeline the
            last step is taken, of a search the `best_estimator_`.
        ax : matplotlib Axes, optional; a new figure if None
        name : str, optional; the name of the class if None
        **line_options : passed to matplotlib's plot for every line

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the estimator has no curve, as after solver="lbfgs".
        """
        trained = _trained(estimator)
        name = type(trained).__name__ if name is None else name
        if isinstance(trained, Model):
            curves: list[Any] = [trained.history.get(curve) for curve in ("loss", "validation_loss", "")]
            missing = "the Model has no curve: it was trained for no whole epoch"
        else:
            names = "loss_curve_", "validation_loss_curve_", "validation_scores_"
            curves = [getattr(trained, curve, None) for curve in names]
            missing = (
                f"{type(trained).__name__} has no loss_curve_; an MLPClassifier or MLPRegressor has one, "
                "if its solver is not 'lbfgs'"
            )
        if not curves[0]:
            raise ValueError(missing)
        loss, validation, scores = curves
        display = cls(loss, validation_loss=validation, validation_scores=scores, estimator_name=name)
        return display.plot(ax=ax, **line_options)

    def plot(self, ax: Any = None, **line_options: Any) -> LossCurveDisplay:
        """Draw the curves into `ax`, or into a new figure; return the display itself.

        Above the curves the axes have room for the legend.
        """
        plt = needed("matplotlib.pyplot", "plot", "LossCurveDisplay")
        from matplotlib.cbook import normalize_kwargs
        from matplotlib.lines import Line2D

        line_options = normalize_kwargs(line_options, Line2D)  # "ls" is "linestyle"
        if ax is None:
            _, ax = plt.subplots()
        self.ax_, self.figure_, self.score_ax_ = ax, ax.figure, None
        prefix = f"{self.estimator_name}: " if self.estimator_name else ""
        self.lines_ = [self._line(ax, self.loss, f"{prefix}training loss", line_options)]
        if self.validation_loss is not None and len(self.validation_loss):
            self.lines_.append(self._line(ax, self.validation_loss, f"{prefix}validation loss", line_options))
        ax.set(xlabel="Epoch", ylabel="Loss")
        if self.validation_scores is not None and len(self.validation_scores):
            self.score_ax_ = ax.twinx()
            # A twin begins with the first colour again.
            options = {"color": f"C{len(self.lines_)}", "linestyle": "--", **line_options}
            label = f"{prefix}validation score"
            self.lines_.append(self._line(self.score_ax_, self.validation_scores, label, options))
            self.score_ax_.set_ylabel("Validation score")
        legend = ax.legend(handles=self.lines_, loc="upper right")
        for axes in (ax, self.score_ax_):
            if axes is not None:
                _make_room(axes, legend)
        return self

    @staticmethod
    def _line(ax: Any, values: Sequence[float], label: str, options: dict[str, Any]) -> Any:
        epochs = np.arange(1, len(values) + 1)
        (line,) = ax.plot(epochs, values, **{"label": label, **options})
        return line


def _trained(estimator: Any) -> Any:
    """Return the trained network in a pipeline or search; NotFittedError if none is fitted."""
    while not isinstance(estimator, Model):
        check_is_fitted(estimator)
        if isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            break
    return estimator


def _make_room(axes: Any, legend: Any) -> None:
    """Extend the vertical axis above the curves for the legend.

    matplotlib's own "best" index does not see the curves of a twin.
    """
    axes.get_figure(root=True).draw_without_rendering()  # the legend has its size now
    box, taken = axes.get_window_extent(), legend.get_window_extent()
    margin = box.y1 - taken.y1
    fraction = min((margin + taken.height + margin) / box.height, 0.8)
    top = box.y0 + box.height / (1 - fraction)
    # As data, and not as a limit: what is drawn later, and limits that a user has set, still count.
    axes.update_datalim([axes.transData.inverted().transform((box.x0, top))], updatex=False)
    axes.autoscale_view(scalex=False)
