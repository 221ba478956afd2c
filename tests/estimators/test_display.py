"""LossCurveDisplay, drawn without a screen."""

import re

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.missing_packages import without
from support.problems import data_set
from support.selection import quick

import fastmlp
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
    for line, expected in zip(display.lines_, values, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), expected)
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


def trained_model(epochs=3):
    network = fastmlp.Network([4, 3], output="softmax", loss="cross_entropy")
    return fastmlp.fit(network, X, Y, epochs=epochs, validation=0.2, seed=0, backend="reference")


def test_a_model(ax):
    model = trained_model()
    display = LossCurveDisplay.from_estimator(model, ax=ax)
    for line, expected in zip(display.lines_, model.history.values(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), expected)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["Model: training loss", "Model: validation loss"]


def test_within_a_pipeline_and_a_search(ax):
    classifier = MLPClassifier(max_iter=3, random_state=0, backend="reference")
    search = GridSearchCV(make_pipeline(StandardScaler(), classifier), {"mlpclassifier__alpha": [1e-3]}, cv=2)
    best = search.fit(X, Y).best_estimator_
    for given in (search, best):
        display = LossCurveDisplay.from_estimator(given, ax=ax)
        np.testing.assert_array_equal(display.lines_[0].get_ydata(), best[-1].loss_curve_)
        assert ax.get_legend().get_texts()[0].get_text() == "MLPClassifier: training loss"


LONG = np.arange(40)

CURVES = {
    "scores that rise": {
        "loss": np.exp(-LONG),
        "validation_loss": 2 * np.exp(-LONG),
        "validation_scores": 1 - np.exp(-LONG),
    },
    "a loss that rises": {"loss": 1 + LONG**2, "validation_loss": 1 + LONG},
    "a loss that goes up and down": {"loss": 2 + (-1.0) ** LONG},
    "one epoch": {"loss": [1.0]},
}


@quick(1)
@pytest.mark.parametrize("scale", ["linear", pytest.param("log", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("kind", CURVES)
def test_the_legend_covers_no_curve(ax, kind, scale):
    ax.set_yscale(scale)
    display = LossCurveDisplay(**CURVES[kind], estimator_name="A classifier of a long name").plot(ax=ax)
    display.figure_.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    inside = ax.get_window_extent()
    assert inside.y0 < legend.y0 < legend.y1 < inside.y1
    for line in display.lines_:
        assert not line.get_transform().transform_path(line.get_path()).intersects_bbox(legend, filled=False)
        lowest, highest = line.get_window_extent().intervaly
        assert inside.y0 <= lowest <= highest <= inside.y1


def test_limits_that_a_user_has_set_stay(ax):
    ax.set_ylim(0, 1)
    LossCurveDisplay([0.5, 0.2]).plot(ax=ax)
    assert ax.get_ylim() == (0, 1)


def test_what_has_no_curve_is_refused():
    with pytest.raises(NotFittedError, match="not fitted yet"):
        LossCurveDisplay.from_estimator(MLPClassifier())
    with pytest.raises(ValueError, match=r"MLPClassifier has no loss_curve_; .* solver is not 'lbfgs'"):
        LossCurveDisplay.from_estimator(fitted(solver="lbfgs"))
    with pytest.raises(ValueError, match="StandardScaler has no loss_curve_; an MLPClassifier or"):
        LossCurveDisplay.from_estimator(make_pipeline(StandardScaler()).fit(X))
    with pytest.raises(NotFittedError, match="not fitted yet"):
        LossCurveDisplay.from_estimator(GridSearchCV(MLPClassifier(), {}))
    with pytest.raises(ValueError, match=r"^the Model has no curve: it was trained for no whole epoch$"):
        LossCurveDisplay.from_estimator(trained_model(epochs=0))


def test_a_missing_matplotlib_is_named_with_its_extra(monkeypatch):
    model = trained_model(epochs=1)
    without(monkeypatch, "matplotlib")
    how = 'pip install "fastmlp[plot]", or ".[plot]" in a checkout'
    with pytest.raises(ImportError, match=f"^{re.escape(f'LossCurveDisplay needs matplotlib: {how}')}$"):
        LossCurveDisplay.from_estimator(model)
