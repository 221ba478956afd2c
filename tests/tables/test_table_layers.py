"""Tables and data sets with hidden layers of one's own: `--layers`, and `TableRegressor(layers=)`."""

from __future__ import annotations

import numpy as np
import pytest
from support.flats import flats
from support.printed import value
from support.selection import quick

from fastmlp import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Network,
    Residual,
    TableClassifier,
    TableRegressor,
)
from fastmlp.cli.arguments import layers_of
from fastmlp.model.initializers import Normal
from fastmlp.tables.estimators import load

TEXT = (
    "Dense(8, silu, name='low'), LayerNorm(), Residual(Dense(8, \"tanh\"), Dropout(0.1)), "
    "BatchNorm(momentum=0.2)"
)
LAYERS = [
    Dense(8, "silu", name="low"), LayerNorm(), Residual(Dense(8, "tanh"), Dropout(0.1)), BatchNorm(0.2),
]  # fmt: skip
QUICK = {"epochs": 5, "batch_size": 32, "members": 1, "backend": "fused", "random_state": 0}


def test_a_text_is_a_list_of_layers():
    made = Network(inputs=3, layers=[*layers_of(TEXT), Dense(1)])
    assert made == Network(inputs=3, layers=[*LAYERS, Dense(1)])
    assert layers_of("Dense(4, weight_init=Normal(0.1)), relu,") == layers_of(
        "Dense(4, weight_init=Normal(0.1)), 'relu'"
    )
    assert layers_of("Dense(4, weight_init=Normal(0.1))") == (Dense(4, weight_init=Normal(0.1)),)


MISTAKES = {
    "Dense(8": "layers must be a list like",
    "": "layers must hold at least one layer",
    "Dense(8)], [Dense(8)": "layers must be a list like",
    "Dens(8)": "unknown layer 'Dens'; choose from: Activate, ",
    "Dense(8, rleu)": r"Dense\(8, rleu\): unknown activation 'rleu'",
    "Dense(8, slope=3)": r"Dense\(8, slope=3\): got an unexpected keyword argument 'slope'",
    "Dense(units=2, **{'units': 3})": "layers",
    "__import__('os').getcwd()": "layers: .*getcwd.* is neither a layer nor a value",
    "Dense(open('x'))": "unknown layer 'open'",
    "(lambda: 3)()": "layers",
    "Dense(8).name": "layers",
    "Dense(2**9)": r"layers: Dense\(2 \*\* 9\): '2 \*\* 9' is neither a layer nor a value",
    "*[Dense(8)]": "layers",
    "Residual(" * 500 + ")" * 500: "layers must be a list like",
    "-" * 9000: "layers must be a list like",
    "8": "a layer must be one of Activate, ",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_text_that_is_none_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match=MISTAKES[text]) as caught:
        layers_of(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_command_line_trains_such_a_network(folder, tmp_path, command):
    options = f"--epochs 5 --members 1 --backend reference --quiet -o {tmp_path}/model"
    train = f"train {folder}/flats.csv --target price {options} --layers"
    shown = value(command(train, TEXT), "network")
    assert shown == "8-8-8-1, silu, layer_norm, tanh, add, batch_norm, mse"
    kept = load(tmp_path / "model")
    ((recipe, (model,)),) = kept.groups_
    assert recipe.layers == layers_of(TEXT)
    assert model.network == recipe.network(kept.encoding_.width, kept.task_)
    for option in ("--hidden=8", "--activation=tanh", "--dropout=0.2"):
        says = f"--layers says what the hidden layers are; leave out {option.partition('=')[0]}\n"
        assert command(train, TEXT, option, code=2).endswith(says)


def test_a_data_set_with_layers(command):
    train = "train iris --epochs 1 --backend reference --quiet --layers"
    shown = value(command(train, TEXT), "network")
    assert shown == "4-8-8-3, silu, layer_norm, tanh, add, batch_norm, softmax, cross_entropy, dropout 0.1"
    command(train, TEXT, "--hidden=4", code=2)


@quick(1)
@pytest.mark.parametrize(("kind", "target"), [(TableRegressor, "price"), (TableClassifier, "kind")])
def test_estimators_of_tables_take_layers(kind, target):
    frame = flats()
    estimator = kind(layers=LAYERS, dtype="float64", **QUICK).fit(frame, target)
    assert [one.kind.name for one in estimator.models_[0].network.operations] == [
        "dense", "layer_norm", "dense", "add", "batch_norm", "dense",
    ]  # fmt: skip
    for given, said in (
        ({"hidden": (8,)}, "layers says what the hidden layers are; leave out hidden"),
        ({"layers": [Dense(4, Activation("own", np.tanh))]}, "activations by name"),
        ({"layers": []}, "at least one layer"),
    ):
        with pytest.raises(ValueError, match=said):
            kind(**{"layers": LAYERS, **QUICK, **given}).fit(frame, target)
