"""Networks and optimisers as JSON: what comes back is what was described, and has its machine code."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support import custom_components

import fastmlp
from fastmlp.backend import auto
from fastmlp.kernels.variant import Work
from fastmlp.model.descriptions import described, restored, with_formulas
from fastmlp.model.optimizers import OPTIMIZERS, without_rates
from fastmlp.model.rules import RULES
from fastmlp.testing import slots

endless = fastmlp.Activation("endless", lambda z: np.where(z > 1e308, np.inf, np.where(z > 0, z, -0.0)))
odd_rule = fastmlp.Rule("odd_rule", lambda p, g, m, r, c, t: p - r * c.nodes * g, constants={"nodes": 1})

NETWORKS = {
    "plain": fastmlp.Network([3, 1]),
    "all that it has": fastmlp.Network(
        [np.int64(4), 8, 8, 3], ["relu", "gelu"], "exp", "poisson", dropout=[0.1, np.float32(0.3)], l1=0.1,
        l2=1e-300, weight_init=fastmlp.Normal(0.3), bias_init="uniform",
        input_scale=1 / 255, convention="sklearn",
    ),
    "endless": fastmlp.Network([3, 4, 1], endless),
    **{name: network for name, (network, _, _) in custom_components.CASES.items()},
}  # fmt: skip

OPTIMISERS = {
    **slots.OPTIMIZERS,
    "two rates": fastmlp.SGD(
        fastmlp.Warmup(fastmlp.Cosine(0.1, length=9), length=3), 0.9, True, bias_learning_rate=0.01
    ),
    "a number of numpy's": fastmlp.RMSprop(momentum=np.float32(0.1)),
    "rates of layers": fastmlp.Adam(clip_norm=1.0, groups={"b": fastmlp.Group(0)}, epsilon_hat=True),
    "decays of layers": fastmlp.AdamW(groups={"*1": fastmlp.Group(decay=0), "b": fastmlp.Group(2, 3)}),
    "weights that decay": fastmlp.Muon(nesterov=False, groups={"*.biases": fastmlp.Group(decay=0)}),
    "averaged": replace(fastmlp.Adam(0.1), averaging=("ema", 0.9)),
    "averaged odd rule": replace(odd_rule(0.1), averaging=("swa", 7.0)),
    "odd rule": odd_rule(0.1, weight_decay=0.1),
    "least squares": fastmlp.LevenbergMarquardt(goal=0.1, max_fail=None, nielsen=True),
    "pairs": fastmlp.LBFGS(history=3, goal=0),
    **{name: optimizer for name, (_, _, optimizer) in custom_components.CASES.items()},
}


def sent(value):
    return restored(json.loads(json.dumps(with_formulas(value))))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back(name):
    network = NETWORKS[name]
    again = sent(network)
    assert again == network
    for one, other in zip(again.activations, network.activations, strict=True):
        if isinstance(other, fastmlp.Activation):
            z = np.random.default_rng(0).normal(size=99)
            assert one.key == other.key
            assert one.on_array(z).tobytes() == other.on_array(z).tobytes()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_comes_back_without_rates(name):
    optimizer = OPTIMISERS[name]
    again = sent(without_rates(optimizer))
    assert again == without_rates(optimizer)
    assert (type(again), again.rule, again.constants) == (
        type(optimizer), optimizer.rule, optimizer.constants,
    )  # fmt: skip
    assert again.rule.key == optimizer.rule.key
    assert (again.clip_norm, again.groups) == (optimizer.clip_norm, optimizer.groups)
    assert again.whole or not again.rates(np.arange(3), 2).any()


def test_every_optimiser_and_rule_is_among_them():
    assert {type(one) for one in OPTIMISERS.values()} == {*OPTIMIZERS}
    assert {one.rule.name for one in OPTIMISERS.values()} >= {*RULES}


@pytest.mark.parametrize("name", custom_components.CASES)
def test_what_is_restored_has_the_same_programs(name):
    network, _, optimizer = custom_components.CASES[name]
    work = Work.of(network, optimizer, 32, np.dtype("f4"), 1, 10**6)
    parts = json.loads(json.dumps(with_formulas(work._replace(optimizer=without_rates(optimizer)))))
    assert auto.field(Work(*restored(parts))) == auto.field(work)


def test_a_file_holds_no_formula():
    parts = described(custom_components.CASES["mish, sine, focal"][0])
    assert [*parts["layers"][0]["activation"]] == ["component", "digest"]
    assert "nodes" not in json.dumps(parts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "Popen", "args": ["true"]},
        {"type": "os.system"},
        {"component": "Expression", "parts": []},
        {},
    ],
)
def test_nothing_else_is_made(wrong):
    with pytest.raises(KeyError):
        restored(wrong)
