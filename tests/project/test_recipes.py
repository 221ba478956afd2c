"""The recipes of docs/architecture.md: each puts lines into so many files, and what it added trains."""

import inspect
import os
import re
import shutil
from pathlib import Path

import pytest
from support import pages
from support.processes import python
from support.selection import PROGRAMS, matrix

import fastmlp
from fastmlp.kernels.program import row_templates, weight_templates

PACKAGE = Path(fastmlp.__file__).parent

PAGE = pages.text_of("docs/architecture.md")

RECIPE = re.compile(r"^### (?P<what>[^:\n]*): (?P<files>\d+) files?\n(?P<body>.*?)(?=^##|\Z)", re.M | re.S)
BLOCK = re.compile(
    r"```python\n# file: (?P<file>\S+), (?P<side>after|before|new)(?:: (?P<line>[^\n]*))?\n(?P<text>.*?)```",
    re.S,
)

LAYER = "network = fastmlp.Network(inputs=3, layers=[fastmlp.Dense(5), fastmlp.{}, fastmlp.Dense(2)])"

TRIALS = {
    "An activation": 'network = fastmlp.Network([3, 5, 2], "hard_tanh")',
    "A unitwise layer with trained numbers": LAYER.format("SoftShrink()"),
    "A norm of rows": LAYER.format("AbsoluteNorm()"),
    "A norm of parts of a row": LAYER.format("Dense(6), fastmlp.PairNorm()"),
    "A gate of two sources": LAYER.format("Bilinear(4)"),
    "A loss": 'network = fastmlp.Network([3, 5, 2], output="sigmoid", loss="log_cosh")',
    "A likelihood of three outputs": 'network = fastmlp.Network([3, 5, 6], "tanh", loss="zero_inflated")',
    "An optimiser with three moments": (
        "optimizer = fastmlp.AggregatedMomentum(0.1)\n"
        "assert specialize(network, optimizer, 16, np.dtype(float)) is not None\n"
        "assert lane_program(network, optimizer, np.dtype(float)) is not None\n"
        "assert restored(described(optimizer)) == optimizer\n"
        "assert 'AggregatedMomentum' in dir(fastmlp) and 'aggregatedmomentum' in optimizers.BY_NAME\n"
        "assert 'aggregatedmomentum' in slots.OPTIMIZERS"
    ),
    "A backend": (
        "assert 'plain_bias' in fastmlp.backends()\n"
        "model = fastmlp.fit(network, X, y, epochs=2, seed=0, backend='plain_bias')\n"
        "expected = fastmlp.fit(network, X, y, epochs=2, seed=0, backend='reference')\n"
        "np.testing.assert_allclose(model.parameters, expected.parameters, rtol=1e-4, atol=1e-6)"
    ),
    "A block of inputs": (
        "listed = [fastmlp.Dense(5, 'tanh'), fastmlp.Dense(2)]\n"
        "network = fastmlp.Network(inputs=[fastmlp.Numbers(3, fastmlp.Hinges(4))], layers=listed)"
    ),
}

COMPLETE = {
    "An activation": """
assert all("hard_tanh" in one.__doc__ for one in (fastmlp.Network, fastmlp.MLPClassifier))
assert "hard_tanh" in HIDDEN
fastmlp.MLPClassifier((5,), "hard_tanh").partial_fit(X, X[:, 0] > 0, classes=[False, True])
is_small(network)
""",
    **{
        f"A {kind}": f"assert {name!r} in fastmlp.__all__ and {name!r} in layers.LAYERS\nis_small(network)"
        for kind, name in {
            "unitwise layer with trained numbers": "SoftShrink",
            "norm of rows": "AbsoluteNorm",
            "norm of parts of a row": "PairNorm",
            "gate of two sources": "Bilinear",
        }.items()
    },
    "A block of inputs": """
assert "Hinges" in fastmlp.__all__ and "Hinges" in fastmlp.Numbers.__doc__ and "Hinges" in inputs.BLOCKS
assert model.layers["hinges1"]["knots"].shape == (3, 4)
""",
    "A loss": """
assert "log_cosh" in fastmlp.Network.__doc__ and "log_cosh" in fastmlp.MLPRegressor.__doc__
fastmlp.MLPRegressor("log_cosh").partial_fit(X, y)
is_small(network)
fastmlp.testing.check("log_cosh")
""",
    "A likelihood of three outputs": """
assert "zero_inflated" in fastmlp.Network.__doc__ and "ZeroInflated" in fastmlp.__all__
assert fastmlp.Network([3, 5, 6], "tanh", loss=fastmlp.ZeroInflated()) == network
is_small(network)
fastmlp.testing.check("zero_inflated")
""",
}
"""What shows that a new thing has all that its neighbours have, besides what `complete` tries."""

TRIAL = """
import functools
import importlib.util
import numpy as np, fastmlp, onnxruntime
from fastmlp.kernels.small.eligible import lane_program
from fastmlp.kernels.small.eligible import specialize
from fastmlp.model import inputs, layers, optimizers
from fastmlp.model.activations import HIDDEN
from fastmlp.model.descriptions import described, restored
from fastmlp.testing import slots

def is_small(network):
    dtype = np.dtype(float)
    assert specialize(network, optimizer, 16, dtype) and lane_program(network, optimizer, dtype)

def complete(model):
    expected = model.predict(X)
    fastmlp.save(model, "model.npz")
    np.testing.assert_array_equal(fastmlp.load("model.npz").predict(X), expected)
    model.to_onnx("model.onnx"), model.to_c("model.h")
    own = {{}}
    exec(model.to_numpy_source(), own)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    (of_onnx,) = session.run(None, {{session.get_inputs()[0].name: X}})
    exported = [own["predict"](X), model.jit_predict(X), of_onnx]
    if importlib.util.find_spec("torch"):
        import torch
        exported.append(model.to_torch()(torch.from_numpy(X)).detach().numpy())
    for predicted in exported:
        np.testing.assert_allclose(predicted, expected, rtol=1e-9, atol=1e-12)
    many = {{"optimizer": optimizer, "epochs": 3, "batch_size": 16, "backend": "specialized"}}
    alone = [fastmlp.fit(network, X, y, seed=seed, **many) for seed in range(3)]
    for one, other in zip(fastmlp.fit_many(network, X, y, n_models=3, seed=[0, 1, 2], **many), alone):
        np.testing.assert_allclose(one.parameters, other.parameters, rtol=1e-9, atol=1e-12)

X = np.random.default_rng(0).normal(size=(40, 3))
y = np.abs(X[:, :2]) / 4
for change, more in {changes!r}:
    network, optimizer = fastmlp.Network([3, 5, 2]), fastmlp.SGD(0.1, 0.9)
    exec(change)
    fit = functools.partial(fastmlp.fit, network, X, y, optimizer=optimizer, batch_size=16, seed=0)
    found = [fit(epochs=3, backend=backend) for backend in {backends!r}]
    for model in found:
        np.testing.assert_allclose(model.parameters, found[0].parameters, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(model.history["loss"], found[0].history["loss"], rtol=1e-9)
    assert found[0].history["loss"][-1] < found[0].history["loss"][0], change
    half = fit(epochs=2, backend=found[-1].backend, callbacks=[fastmlp.Checkpoint("half")])
    resumed = fit(epochs=3, backend=found[-1].backend, resume="half")
    np.testing.assert_array_equal(resumed.parameters, found[-1].parameters)
    np.testing.assert_array_equal(fastmlp.load("half").predict(X), half.predict(X))
    if more:
        complete(found[0])
        exec(more)
"""


EXPORT = """
import numpy as np, fastmlp
from fastmlp import Dense, LayerNorm, PReLU, Residual

X = np.random.default_rng(0).normal(size=(40, 3))
layers = [Dense(5, "gelu"), LayerNorm(), Residual(PReLU(), Dense(5, "softplus")), Dense(2)]
network = fastmlp.Network(inputs=3, layers=layers, output="softmax", loss="cross_entropy")
model = fastmlp.fit(network, X, X[:, 0] > 0, epochs=2, seed=0, backend="reference")
exec(model.to_plain_python(), own := {})
np.testing.assert_allclose([own["predict"](row) for row in X.tolist()], model.predict(X), rtol=1e-12)
"""
"""A network in the format of the recipe."""


OPTION = """
import numpy as np, fastmlp
from fastmlp import SGD, Checkpoint, Network, fit, fit_many, iter_fit
from fastmlp.backend import lanes

lanes.LaneProgram.is_worth = lambda *_: True  # few models go together, too, where that is possible
X = np.random.default_rng(0).normal(size=(32, 3))
given, same = (Network([3, 5, 2], "tanh"), X, X[:, :2] ** 2), np.testing.assert_array_equal
for backend in ("reference", "specialized"):
    options = {"optimizer": SGD(0.1), "batch_size": None, "seed": 0, "backend": backend}
    usual, warm = (fit(*given, epochs=9, warmup=steps, **options) for steps in (0, 5))
    by_epoch = {**options, "optimizer": SGD(lambda done: 0.1 * min((done + 1) / 5, 1))}
    by_rate = fit(*given, epochs=9, **by_epoch)
    np.testing.assert_allclose(warm.parameters, by_rate.parameters, rtol=1e-12)
    lists = {**options, "seed": [0] * 12, "warmup": [0, 5] * 6}
    for place, model in enumerate(fit_many(*given, epochs=9, threads=1, **lists)):
        same(model.parameters, (usual, warm)[place % 2].parameters)
    *_, run = iter_fit(*given, epochs=9, warmup=5, **options)
    same(run.parameters, warm.parameters)
    part = fit(*given, epochs=3, warmup=5, callbacks=[Checkpoint("warm")], **options)
    same(part.fit_more(*given[1:], epochs=6).parameters, warm.parameters)
    same(fit(*given, epochs=9, warmup=5, resume="warm", **options).parameters, warm.parameters)
    fit(*given, epochs=3, callbacks=[Checkpoint("usual")], **options)
    same(fit(*given, epochs=9, resume="usual", **options).parameters, usual.parameters)
    for path, steps in (("warm", 0), ("usual", 5)):
        try:
            fit(*given, epochs=9, warmup=steps, resume=path, **options)
        except fastmlp.CheckpointError as error:
            assert "these differ: warmup (" in str(error), error
        else:
            raise AssertionError("a training with another option was resumed")
for call in (fit, fit_many, iter_fit):
    try:
        call(*given, warmup=-1, **({"n_models": 1} if call is fit_many else {}))
    except ValueError as error:
        assert "warmup must be at least 0, got -1" in str(error)
    else:
        raise AssertionError("warmup=-1")
"""
"""What goes by the option of the recipe: steps, in every way to train, and what goes on from a file."""


def cooked(folder):
    """Follow all recipes in a copy of the package; return, by recipe, how many files it said and touched."""
    pages.copy(PACKAGE, folder / "fastmlp")
    counts = {}
    for recipe in RECIPE.finditer(PAGE):
        touched = set()
        for block in BLOCK.finditer(recipe["body"]):
            path = folder / block["file"]
            touched.add(path)
            if block["side"] == "new":
                assert not path.exists()
                path.write_text(block["text"])
                continue
            lines = path.read_text().splitlines(keepends=True)
            at = next(i for i, line in enumerate(lines) if block["line"] in line)
            before = block["side"] == "before"
            # What is put before a function or a class is one itself.
            text = block["text"] + "\n\n" * before
            lines.insert(at + (not before), text)
            path.write_text("".join(lines))
        counts[recipe["what"]] = int(recipe["files"]), len(touched)
    return counts


def test_the_page_shows_the_walk_over_operations():
    shown = re.search(r"^## The walk over operations\n.*?```python\n(.*?)```", PAGE, re.M | re.S)[1]
    walks = row_templates.rows_forward, row_templates.rows_backward, weight_templates.weights_step
    assert shown.partition("\n")[2] == "\n\n".join(map(inspect.getsource, walks))


PLACES = {
    "An activation": 2,
    **dict.fromkeys(
        (
            "A unitwise layer with trained numbers",
            "A norm of rows",
            "A norm of parts of a row",
            "A gate of two sources",
        ),
        2,
    ),  # one of them is the reference
    "A loss": 2,
    "A likelihood of three outputs": 2,
    "An optimiser with three moments": 2,  # one of them is the reference
    "A block of inputs": 2,
    "A format of exports": 2,
    "A backend": 1,
    "An option of a training": 2,
}
"""The most files that each may touch: the measure of the design."""


@matrix
def test_recipes_touch_as_many_files_as_they_say(tmp_path):
    counts = cooked(tmp_path)
    assert {what: counts[what] for what in PLACES} == {what: (most, most) for what, most in PLACES.items()}
    python("-W", "error", "-c", EXPORT + OPTION, cwd=tmp_path)


@pytest.mark.slow  # compiles three backends anew
def test_recipes_serve_every_backend(tmp_path):
    """On the programs of the templates, by rows, and of single networks; others have one of them."""
    cooked(tmp_path)
    changes = [(trial, COMPLETE.get(what, "")) for what, trial in TRIALS.items()]
    script = TRIAL.format(changes=changes, backends=[*PROGRAMS, "specialized"])
    python("-W", "error", "-c", script, cwd=tmp_path)


CASES = {
    "tests/exchange/test_exchange.py": ("hard_tanh",),
    "tests/exchange/test_every_layer.py": ("SoftShrink", "AbsoluteNorm", "PairNorm", "Bilinear", "Hinges"),
    "tests/model/test_layer_table.py": ("SoftShrink", "AbsoluteNorm", "PairNorm", "Bilinear", "Hinges"),
    "tests/model/test_differences.py": ("SoftShrink", "AbsoluteNorm", "PairNorm", "Bilinear", "Hinges"),
}
"""Tests whose cases are drawn from tables, and the new things among these."""


@pytest.mark.slow  # compiles for these cases
def test_the_cases_of_tests_follow_the_recipes(tmp_path):
    """These hold new things to a second opinion, to differences, to every program and every format."""
    cooked(tmp_path)
    for name in ("tests", "docs", "conftest.py", "pyproject.toml"):
        source = pages.ROOT / name
        (pages.copy if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "benchmarks").mkdir()  # that pyproject.toml names
    names = sorted({name for own in CASES.values() for name in own})
    options = ["-p", "no:cacheprovider", "-q", "-rA", "-n0", "-m", "not campaign", "-k", " or ".join(names)]
    outside = {name: None for name in os.environ if name.startswith("PYTEST_")}
    passed = python("-m", "pytest", *options, *CASES, cwd=tmp_path, **outside).stdout
    for path, own in CASES.items():
        tried = [line for line in passed.splitlines() if line.startswith(f"PASSED {path}")]
        assert [name for name in own if not any(name in line for line in tried)] == [], passed
