"""LossCurveDisplay, drawn without a screen."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.neural_network
from problems import data_set
from sklearn.exceptions import NotFittedError

from fastmlp import LossCurveDisplay, MLPClassifier

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = data_set("iris", 100)


@pytest.fixture
def ax():
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    yield axes
    pyplot.close(figure)


def fitted(**options):
    return MLPClassifier(max_iter=8, random_state=0, backend="reference", **options).fit(X, Y)


def test_one_curve(ax):
    model = fitted()
    display = LossCurveDisplay.from_estimator(model, ax=ax, color="red")
    (line,) = display.lines_
    np.testing.assert_array_equal(line.get_xydata(), np.column_stack([np.arange(1, 9), model.loss_curve_]))
    assert line.get_color() == "red"
    assert (display.ax_, display.figure_, display.score_ax_) == (ax, ax.figure, None)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Epoch", "Loss")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["MLPClassifier: training loss"]


def test_validation_rows_add_their_loss_and_scores(ax):
    model = fitted(early_stopping=True)
    display = LossCurveDisplay.from_estimator(model, ax=ax, name="mine")
    values = (model.loss_curve_, model.validation_loss_curve_, model.validation_scores_)
    for line, wanted in zip(display.lines_, values, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), wanted)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["mine: training loss", "mine: validation loss", "mine: validation score"]
    assert len({line.get_color() for line in display.lines_}) == 3
    assert display.score_ax_.get_ylabel() == "Validation score"
    display.figure_.canvas.draw()


def test_a_figure_of_its_own_and_scikit_learns_estimators():
    from matplotlib import pyplot

    theirs = sklearn.neural_network.MLPClassifier(max_iter=3, random_state=0).fit(X, Y)
    display = LossCurveDisplay.from_estimator(theirs)
    np.testing.assert_array_equal(display.lines_[0].get_ydata(), theirs.loss_curve_)
    pyplot.close(display.figure_)


def test_what_has_no_curve_is_refused():
    with pytest.raises(NotFittedError, match="not fitted yet"):
        LossCurveDisplay.from_estimator(MLPClassifier())
    with pytest.raises(ValueError, match="MLPClassifier has no loss_curve_; solvers other than 'lbfgs'"):
        LossCurveDisplay.from_estimator(fitted(solver="lbfgs"))
