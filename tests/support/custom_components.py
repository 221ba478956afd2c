"""The components that docs/custom-components.md makes, and some more, for tests of users' own."""

import ast

import numpy as np

import fastmlp
from fastmlp import SGD, Activation, Layer, Loss, Network, RowLoss, Rule
from support import pages

PAGE = "docs/custom-components.md"


def definitions():
    """What the examples define: functions and components, without the trainings."""
    kinds = tuple(f"fastmlp.{name}" for name in ("Activation", "Layer", "Loss", "RowLoss", "Rule"))
    scope = {"np": np, "fastmlp": fastmlp}
    for node in ast.parse(pages.script(PAGE)).body:
        value = getattr(node, "value", None)
        if isinstance(node, ast.FunctionDef) or (
            isinstance(value, ast.Call) and ast.unparse(value.func) in kinds
        ):
            exec(compile(ast.Module([node], []), PAGE, "exec"), scope)
    return {
        name: value for name, value in scope.items() if isinstance(value, (Activation, Layer, Loss, Rule))
    }


MADE = definitions()
mish, sine, snake, gated, focal, asymmetric, quantiles, smoothed, Lion = (
    MADE[name]
    for name in ("mish", "sine", "snake", "gated", "focal", "asymmetric", "quantiles", "smoothed", "Lion")
)


def adam_step(p, g, moments, rate, c, t):
    m, v = moments
    m, v = c.beta1 * m + (1 - c.beta1) * g, c.beta2 * v + (1 - c.beta2) * g * g
    return p - rate * (m / (1 - c.beta1**t)) / (np.sqrt(v / (1 - c.beta2**t)) + 1e-8), m, v


OwnAdam = Rule("own_adam", adam_step, moments=2, constants={"beta1": 0.9, "beta2": 0.999})

six_moments = Rule(
    "six_moments",
    lambda p, g, m, rate, c, t: (
        p - rate * (sum(m) + g), *(m[i] / 2 + m[i - 1] for i in range(1, 6)), m[0] / 2 + g,
    ),
    moments=6,
)  # fmt: skip
"""Of the most moments that a rule may have."""

hard = Activation("hard", lambda z: np.clip(z, -2, 2), slope=lambda a: np.where(abs(a) < 2, 1.0, 0.0))
own_huber = Loss(
    "own_huber",
    lambda output, target, d: np.where(
        abs(output - target) < d, 0.5 * (output - target) ** 2, d * (abs(output - target) - d / 2)
    ),
    parameter=0.7,
)
of_outputs = RowLoss("of_outputs", lambda output, target: -np.sum(target * np.log(output)), output="softmax")
by_element = Loss("by_element", lambda output, target: (output - target) ** 2, output="softmax")

X = np.random.default_rng(0).normal(size=(24, 5))
Y = X[:, :3] ** 2
ONE_HOT = np.eye(3)[np.arange(24) % 3]
WEIGHTS = np.arange(24) % 3

CASES = {
    "mish, sine, focal": (Network([5, 4, 3, 2], [mish, sine], loss=focal), ONE_HOT[:, :2], SGD(0.1, 0.9)),
    "hard, own huber": (Network([5, 4, 3], hard, loss=own_huber), Y, SGD(0.1)),
    "hard, asymmetric, Lion": (Network([5, 6, 3], hard, loss=asymmetric, l2=0.1), Y, Lion(0.01)),
    "quantiles, own Adam, clipped": (
        Network([5, 4, 3], mish, loss=quantiles, dropout=0.2, l1=0.01),
        Y[:, 0],
        OwnAdam(0.01, beta1=0.8, weight_decay=0.1, clip_norm=0.5),
    ),
    "a row's logits": (Network([5, 4, 3], "tanh", loss=smoothed), ONE_HOT, SGD(0.1)),
    "a row's outputs": (Network([5, 4, 3], "tanh", loss=of_outputs), ONE_HOT, SGD(0.1)),
    "softmax by element": (Network([5, 4, 3], "tanh", loss=by_element), ONE_HOT, SGD(0.1)),
}
"""A network, its targets, an optimiser."""

STEPS = 6


def train(name, backend, dtype="float64", **options):
    """Two epochs of three steps, a third of the rows without weight."""
    network, y, optimizer = CASES[name]
    given = {"optimizer": optimizer, "epochs": 2, "batch_size": 8, "seed": 0, "progress": False, **options}
    return fastmlp.fit(network, X, y, sample_weight=WEIGHTS, backend=backend, dtype=dtype, **given)


ROWS = np.random.default_rng(5).normal(size=(40, 4))


def losses_of(backends, y, **options):
    fits = {"epochs": 3, "batch_size": 16, "seed": 1, **options}
    network = fits.pop("network")
    return [fastmlp.fit(network, ROWS, y, backend=backend, **fits).history["loss"] for backend in backends]
