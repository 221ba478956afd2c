"""docs/examples/reinforcement: what steppers learn there is what PyTorch learns from the same start."""

import importlib.util

import numpy as np
import pytest
from support import pages

pytest.importorskip("gymnasium")  # an extra, for these examples only

FOLDER = pages.ROOT / "docs" / "examples" / "reinforcement"


def example(name):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batch(name, module, rng):
    """Rows such as the example's `learn` takes."""
    rows, normal = 64, lambda *shape: rng.standard_normal(shape, "f")
    match name:
        case "ppo":
            logs = np.log(rng.uniform(0.3, 0.7, rows)).astype("f")
            return 0.5, normal(rows, 4), rng.integers(2, size=rows), logs, *(normal(rows) for _ in range(3))
        case "dqn":
            rows = module.BATCH
            ends = (rng.random(rows) < 0.1).astype("f")
            return normal(rows, 4), rng.integers(2, size=rows), normal(rows), normal(rows, 4), ends
    ends = (rng.random((rows, 1)) < 0.1).astype("f")
    return normal(rows, 3), normal(rows, 1), normal(rows, 1), normal(rows, 3), ends, normal(rows, 1)


@pytest.mark.parametrize("name", ["ppo", "dqn", "sac"])
def test_both_ways_learn_the_same(name):
    pytest.importorskip("torch")  # an extra, and 200 MB
    module, rng = example(name), np.random.default_rng(0)
    match name:
        case "ppo":
            start = {one: module.start(sizes, 1.0, rng) for one, sizes in module.SIZES.items()}
        case "dqn":
            start = module.start(module.SIZES, rng)
        case "sac":
            start = {one: module.start(sizes, rng) for one, sizes in module.SIZES.items()}
    both = module.Steppers(start), module.Torch(start)
    for _ in range(5):
        given = batch(name, module, rng)
        for agent in both:
            agent.learn(*given)
            if name == "dqn":
                agent.copy()
            if name == "sac":
                agent.improve(given[0], given[-1])
                agent.follow()
    observations = rng.standard_normal((32, 3 if name == "sac" else 4), "f")
    match name:
        case "ppo":
            found = [agent.judge(observations) for agent in both]
        case "dqn":
            found = [[agent.best(one) for one in observations] for agent in both]
        case "sac":
            found = [agent.act(observations, rng.standard_normal((32, 1), "f") * 0) for agent in both]
    for own, other in zip(*(one[:2] if name == "sac" else one for one in found), strict=True):
        # five steps of Adam, where a gradient near 0 may round to either sign
        np.testing.assert_allclose(own, other, rtol=0, atol=2e-4)


@pytest.mark.slow  # a process each
@pytest.mark.parametrize(("name", "steps"), [("ppo", 2048), ("dqn", 10_100), ("sac", 5010)])
def test_an_example_runs(name, steps, capsys):
    module = example(name)
    module.main(["--seed", "3", "--steps", str(steps)])
    assert "s for the environment" in capsys.readouterr().out
