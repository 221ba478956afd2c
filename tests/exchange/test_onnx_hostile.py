"""ONNX files that somebody has made to do harm: read as they are, or refused soon and in one line."""

import copy
import json
import os
import time

import numpy as np
import pytest
from support import needs
from support.drawn_networks import pick
from support.exchanged_models import own_gated
from support.selection import matrix, quick, seeds

import fastmlp
from fastmlp import Activate, Categories, Dense, Head, Members, Model, Network, Numbers, Residual

onnx = pytest.importorskip("onnx")

from support.onnx_graphs import file  # noqa: E402

BLOCKS = {
    "a": Numbers(2, fastmlp.Periodic(2)),
    "b": Numbers(1, fastmlp.PiecewiseLinear([[-1.0, 0, 1]])),
    "c": Categories([3, 2]),
}
HEADS = {"price": Head(2, loss=fastmlp.Quantiles([0.1, 0.9])), "kind": Head(3, output="softmax")}
MEMBERS = [Dense(4, "silu"), Members(2), Dense(3), Activate("tanh"), Dense(1)]
DESCRIBED = (
    Network(inputs=BLOCKS, layers=[Dense(4, "tanh", name="low"), own_gated, Residual(Dense(4)), Dense(2)]),
    Network(inputs=3, layers=[Dense(4, "gelu")], heads=HEADS),
    Network(inputs=3, layers=MEMBERS),
)
ODD = (
    *(None, True, 0, -1, 1, 7, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, "", "X", "relu", "\x1b[2J\n", "é"),
    *(
        [],
        {},
        [[]],
        [0],
        {"type": "Network"},
        {"named": []},
        {"component": "Layer", "parts": []},
        {"nodes": []},
    ),
    *([1e308] * 50, {"type": "Members", "count": 2**40}, {"type": "Dense", "units": 2**40}),
)


def places(value, here=()):
    """The paths to all parts of a description."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*here, key)
        if isinstance(part, (dict, list)):
            yield from places(part, (*here, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def changed(rng, description):
    """A description of which some parts are others."""
    for _ in range(rng.integers(1, 4)):
        paths = [*places(description)]
        if not paths:
            break
        *path, last = pick(rng, paths)
        parent = at(description, path)
        match int(rng.integers(5)):
            case 0 | 1:
                parent[last] = copy.deepcopy(pick(rng, ODD))
            case 2 if len(paths) > 1:
                del parent[last]
            case 3:  # that of another place
                parent[last] = json.loads(json.dumps(at(description, pick(rng, paths))))
            case 4:
                for _ in range(int(rng.choice([1, 3, 250]))):
                    parent[last] = [parent[last]]
    return description


def harmed(rng, file):
    """A file with another description, or with other arrays or bytes."""
    model = onnx.ModelProto.FromString(file)
    (entry,) = model.metadata_props
    match int(rng.integers(6)):
        case 0 | 1 | 2:
            entry.value = json.dumps(changed(rng, json.loads(entry.value)))
        case 3:
            text = [*entry.value]
            for _ in range(rng.integers(1, 4)):
                text[rng.integers(len(text))] = pick(rng, '0123456789[]{}",:eE-. truefalsn\\')
            entry.value = "".join(text)
        case 4:
            array = pick(rng, model.graph.initializer)
            array.dims[:] = [pick(rng, [0, 1, 2, 3, 2**40]) for _ in array.dims]
        case 5:
            content = bytearray(file)
            for _ in range(rng.integers(1, 4)):
                content[rng.integers(len(content))] = rng.integers(256)
            return bytes(content)
    return model.SerializeToString()


def tried(seed, folder):
    """A file that describes its network, and was harmed, is refused, or has the arrays that it had."""
    rng, path = np.random.default_rng(seed), folder / "x.onnx"
    given = fastmlp.Stepper(pick(rng, DESCRIBED), "sgd", seed=0, dtype="f8", backend="reference").model()
    given.to_onnx(path)
    content = harmed(rng, path.read_bytes())
    path.unlink()  # see test_archive.py
    path.write_bytes(content)
    begun, said, found = time.process_time(), "", given
    try:
        found = Model.from_onnx(path, backend="reference")
    except ValueError as error:
        said = str(error)
    assert said.isprintable(), repr(said)
    assert found.parameters.size == given.parameters.size
    assert time.process_time() - begun < 20


@pytest.mark.parametrize("seed", seeds(10, 60, 1000))
def test_a_harmed_description_is_refused_or_harmless(seed, tmp_path):
    tried(seed, tmp_path)


@matrix
@pytest.mark.parametrize("harm", [{"type": "Dense"}, float("inf")], ids=str)
def test_a_formula_of_nonsense_is_refused_or_harmless(harm, tmp_path):
    """Whatever stands in the place of an operation, a number or a name of a user's formula."""
    path, refused = tmp_path / "x.onnx", 0
    fastmlp.Stepper(DESCRIBED[0], "sgd", seed=0, dtype="f8", backend="reference").model().to_onnx(path)
    model = onnx.load(path)
    (entry,) = model.metadata_props
    text = entry.value
    for *above, last in [one for one in places(json.loads(text)) if "nodes" in one]:
        at(changed := json.loads(text), above)[last] = harm
        entry.value = json.dumps(changed)
        path.write_bytes(model.SerializeToString())
        try:
            Model.from_onnx(path, backend="reference")
        except ValueError as error:
            refused += str(error).isprintable()
    assert refused > 50


@needs.posix("pipes and devices")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    """A pipe would wait for its writer, and a device has no end."""
    path = {"pipe": tmp_path / "pipe", "device": "/dev/zero", "folder": tmp_path}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(ValueError, match=r"is not a file$"):
        Model.from_onnx(path)


@pytest.mark.parametrize(
    ("operator", "domain"), [("Re\nlu\x1b[2J", "own"), ("Relu", "own\n\x1b[31m"), ("\x1b[2J", "")]
)
def test_an_error_has_no_letters_that_a_terminal_obeys(operator, domain, tmp_path):
    node = operator, ["X"], "out", {"domain": domain}
    with pytest.raises(ValueError, match=r"is no valid ONNX file|cannot read the operator") as error:
        Model.from_onnx(file(tmp_path / "x.onnx", [node], own=domain))
    assert str(error.value).isprintable()


@quick(1)
@pytest.mark.parametrize("operator", ["Add", "Max", "Tanh"])
def test_a_long_chain_is_read_in_time(operator, tmp_path):
    """A value that is used twice, over and over, has 2^1000 paths to it."""
    numbers, both = np.random.default_rng(0).normal(size=(3, 2)), 1 if operator == "Tanh" else 2
    nodes = [(operator, [f"v{i}"] * both, f"v{i + 1}", {}) for i in range(1000)]
    nodes = [("Gemm", ["X", "w"], "v0", {}), *nodes, ("Gemm", ["v1000", "u"], "out", {})]
    path, begun = file(tmp_path / "x.onnx", nodes, w=numbers, u=numbers[:2, :1]), time.process_time()
    assert Model.from_onnx(path, backend="reference").network.n_in == 3
    assert time.process_time() - begun < 10
