"""The command line as a user meets it: what it prints, its exit codes, and one line for a mistake."""

import re

import numpy as np
import pytest
import sklearn.datasets
from support.printed import value
from support.processes import python
from support.selection import quick

import fastmlp
from fastmlp.backend.registry import mixed, variants
from fastmlp.cli import datasets, train

QUICK = "--backend fused --threads 1 --quiet"


def test_a_training_is_compared_with_the_reference(command):
    output = command("train iris --backend fused")
    assert re.fullmatch(r"[\d.]+ times as fast as the reference", value(output, "speed-up"))
    assert re.search(r"rows/s .*not counted", value(output, "time"))
    assert value(output, "backend") == "fused"
    assert command.errors == ""


@quick(2)
@pytest.mark.parametrize("name", datasets.RECIPES)
def test_every_data_set_trains(command, name):
    output = command(f"train {name} {QUICK} --no-reference")
    assert "reference" not in output
    assert command.errors == ""
    if name == "diabetes":
        assert float(value(output, "R^2").split()[0]) > 0.2
    else:
        assert float(value(output, "accuracy").split()[0]) > {"digits": 96.99}.get(name, 90)


def test_every_option_takes_effect(command):
    options = "--epochs 3 --batch-size 20 --hidden 9,5 --activation tanh --optimizer rmsprop"
    options += " --learning-rate 0.01 --dropout 0.1 --l2 0.001 --threads 1 --dtype float64 --seed 5"
    output = command(f"train iris {options} --backend reference --quiet")
    assert value(output, "network") == "4-9-5-3, tanh, softmax, cross_entropy, dropout 0.1"
    assert value(output, "training") == "3 epochs in batches of 20, RMSprop at 0.01, float64, seed 5"


def test_products_of_bfloat16_numbers(command):
    output = command("train digits --dtype bfloat16 --backend reference --hidden 32,32 --epochs 2 --quiet")
    assert value(output, "training").endswith("bfloat16, seed 0")
    assert value(output, "backend") == "reference_bfloat16"
    assert "speed-up" not in output


def test_the_same_seed_gives_the_same_loss(command):
    train = f"train wine {QUICK} --no-reference --epochs 2 --seed 3"
    assert value(command(train), "loss") == value(command(train), "loss")


def test_no_hidden_layer(command):
    output = command("train iris --backend reference --quiet --epochs 3 --hidden none")
    assert value(output, "network").startswith("4-3,")
    assert "speed-up" not in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("train mnist", "unknown data set 'mnist'; choose from: digits, xor"),
        ("train x.csv --target y --mpi", "--mpi is for the data sets digits, xor"),
        ("train iris --learning-rate -1", "learning_rate must be at least 0, got -1.0"),
        ("train iris --learning-rate nan", "learning_rate must be"),
        ("train iris --epochs 0", "epochs must be at least 1, got 0"),
        ("train iris --epochs many", "invalid int value: 'many'"),
        ("train iris --batch-size 0", "batch size must be at least 1, got 0"),
        ("train iris --hidden 3,x", "hidden must be widths like 128,64 or none, got '3,x'"),
        ("train iris --hidden 0", "every width of hidden must be at least 1, got 0"),
        ("train iris --activation rleu", "unknown hidden activation 'rleu'; choose from"),
        ("train iris --optimizer adm", "unknown optimizer 'adm'; choose from: sgd, rmsprop, adam, adamw"),
        ("train iris --dropout 1", "dropout must be in [0, 1), got 1.0"),
        ("train iris --l2 -1", "l2 must be at least 0, got -1.0"),
        ("train iris --backend fussed", "unknown backend 'fussed'; choose from: auto, reference"),
        ("train iris --threads 0", "threads must be at least 1, got 0"),
        ("train iris --dtype int8", "unknown dtype 'int8'; choose from: float32, float64"),
        ("train iris --seed -1", "seed must be at least 0, got -1"),
        ("warmup --backend baseline,fussed", "unknown compiled backend 'fussed'; choose from: auto, baseli"),
        ("warmup --backend reference", "unknown compiled backend 'reference'; choose from: auto, baseline"),
        ("warmup --dtype float16", "unknown dtype 'float16'; choose from: float32, float64"),
        ("train", "required: DATASET"),
        ("tarin", "invalid choice: 'tarin'"),
        ("train iris --fast", "unrecognized arguments: --fast"),
        ("cache --clea", "unrecognized arguments: --clea"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(command, arguments, says):
    assert says in command(arguments, code=2)
    assert command.output == ""


def test_a_diverging_training_says_so(command):
    assert "diverged" in command(f"train iris {QUICK} --optimizer sgd --learning-rate 1e30", code=1)


def test_ctrl_c_is_no_traceback(command, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "measured", interrupt)
    assert command(f"train iris {QUICK}", code=130) == "fastmlp: interrupted\n"


def test_in_a_pipe():
    done = python("-m", "fastmlp", "train", "xor", "--backend", "reference")
    assert value(done.stdout, "accuracy") == "100.00 % on its own rows"


def test_the_version(command):
    assert command("--version") == f"fastmlp {fastmlp.__version__}\n"


def test_the_bare_command_prints_its_help(command):
    output = command("")
    assert command.errors == ""
    assert output == command("--help")
    for name in ("train", "backends", "warmup", "cache"):
        assert re.search(rf"^ +{name} +\w", output, re.MULTILINE)


def test_backends_are_listed_with_their_bases_and_what_they_override(command):
    titles, *lines = command("backends").splitlines()
    assert titles.split(None, 2) == ["NAME", "BASE", "WHAT IT OVERRIDES"]
    at = titles.index("BASE"), titles.index("WHAT")
    rows = {line[: at[0]].strip(): (line[at[0] : at[1]].strip(), line[at[1] :]) for line in lines}
    assert list(rows) == [*fastmlp.backends(), "auto", *mixed()]
    for name, why_not in mixed().items():
        assert ("not here: " in rows[name][1]) == (why_not() is not None)
    for name, variant in variants().items():
        base, own = rows[name]
        assert base == (variant.base.name if variant.base else "")
        assert set(own.split(", ")) >= set(variant.slots)
    assert rows["specialized"] == ("fused", "train_chunk of each small network")


@pytest.mark.parametrize("name", [name for name in datasets.RECIPES if name != "xor"])
def test_the_split_holds_out_a_fifth_and_standardises_by_the_rest(name):
    task = datasets.load(name, 0)
    rows = len(task.inputs) + len(task.held_inputs)
    assert len(task.held_inputs) == pytest.approx(rows / 5, abs=1)
    np.testing.assert_allclose(task.inputs.mean(axis=0), 0, atol=1e-9)
    deviations = task.inputs.std(axis=0)
    np.testing.assert_allclose(deviations[deviations > 0], 1)  # digits has constant columns
    if task.classes:
        shares = [np.bincount(y, minlength=task.classes) / len(y) for y in (task.targets, task.held_targets)]
        np.testing.assert_allclose(*shares, atol=1 / len(task.held_inputs))


@pytest.mark.parametrize("folder", [datasets.FOLDER, "elsewhere"])
@pytest.mark.parametrize("name", [*datasets.FILES, "diabetes"])
def test_shipped_data_sets_are_what_scikit_learn_loads(monkeypatch, name, folder):
    """Read from its files, and by itself where it keeps them elsewhere."""
    monkeypatch.setattr(datasets, "FOLDER", folder)
    options = {"scaled": False} if name == "diabetes" else {}
    expected = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True, **options)
    for got, array in zip(datasets.shipped(name), expected, strict=True):
        np.testing.assert_array_equal(got, array)
        assert got.dtype == array.dtype


def test_no_data_set_takes_the_import_of_scikit_learn():
    code = "import sys; from fastmlp.cli.main import main\n"
    code += "for name in sys.argv[1:]: main(['train', name, '--epochs', '1', '--backend', 'reference'])\n"
    code += "assert 'sklearn' not in sys.modules"
    python("-c", code, *datasets.RECIPES)
