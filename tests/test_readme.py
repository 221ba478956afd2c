"""The README's examples run as they stand, and its lists are the code's."""

from __future__ import annotations

import re

import pages
import pytest

import fastmlp
from fastmlp.backend import registry
from fastmlp.model import initializers, losses
from fastmlp.model.activations import HIDDEN, OUTPUTS

README = pages.text_of("README.md")

CHECKS = """
assert (predicted == y_test).mean() > 0.9
assert len(classifier.validation_loss_curve_) == classifier.n_iter_ > 5
assert accuracy > 0.9, accuracy
assert losses[-1] < losses[0] / 10, losses
assert first_weights.shape == (64, 128)
assert model.backend == "four_rows"
assert error < 0.2, error
assert (np.diff(below) > 0.1).all(), below

import naive  # the step that sums and averages, written out
start = fastmlp.fit(xor.network, inputs, targets, epochs=0, seed=0)
(w1, w2), (b1, b2) = start.weights, start.biases
summed, _ = naive.notebook(w1, b1, w2, b2, inputs, targets[:, None], rate, 100)
np.testing.assert_allclose(xor.history["loss"], summed, rtol=1e-12)  # as tests/test_notebook.py
"""


def test_the_python_examples_run(tmp_path):
    pages.run("README.md", tmp_path, CHECKS)
    assert [*tmp_path.iterdir()] == [tmp_path / "four_rows.py"]


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("hidden activations", HIDDEN),
        ("outputs", OUTPUTS),
        ("losses", losses.LOSSES),
        ("optimisers", ("SGD", "RMSprop", "Adam", "AdamW", "SparseAdam")),
        ("of your own", ("Activation", "Loss", "RowLoss", "Rule")),
        ("schedules", [name for name, home in fastmlp._MODULE_OF.items() if home == "model.schedules"]),
        ("initialisers", (*initializers.WEIGHT_INITS, *initializers.BIAS_INITS, "Normal(scale)")),
    ],
)
def test_the_table_lists_what_there_is(row, names):
    line = re.search(rf"^\| {row} \| (.*) \|$", README, re.MULTILINE)[1]
    assert set(re.findall(r"`([^`]+)`", line)) == set(names)


def test_every_backend_has_its_row():
    section = README.partition("## Backends")[2].partition("\n## ")[0]
    shipped = set(registry._own())  # without those of --variant
    first_cells = "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", first_cells)) == {"reference", *shipped}
