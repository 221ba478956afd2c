"""The optimisers: formulas of steps, and frozen descriptions with the constants.

Definitions and defaults are PyTorch's (torch.optim). The reference repeats the formulas.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from fastmlp import checks
from fastmlp.checks import count, fraction, number, positive
from fastmlp.formulas.elementary import decayed
from fastmlp.formulas.numbers import at_least, at_most, fma, quotient, root, sqrt, where
from fastmlp.model.optimizer import Group as Group
from fastmlp.model.optimizer import Optimizer as Optimizer
from fastmlp.model.optimizer import Rule as Rule
from fastmlp.model.optimizer import RuleOptimizer as RuleOptimizer
from fastmlp.model.optimizer import keeping_signs as keeping_signs
from fastmlp.model.rules import DECAY, StepRule, rule
from fastmlp.model.rules import RULES as RULES
from fastmlp.model.schedules import Rate, Schedule, as_schedule
from fastmlp.model.second_order import WHOLE as WHOLE

if TYPE_CHECKING:
    from fastmlp.model.operations import Operation


@rule()
def sgd(p: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    """Along the gradient."""
    return fma(-rate, g, p), ()


@rule(moments=1, constants="momentum")
def momentum(p: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    """Along a velocity."""
    velocity = fma(c.momentum, moments[0], g)
    return fma(-rate, velocity, p), (velocity,)


@rule(moments=1, constants="momentum")
def nesterov(p: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    """Along the gradient and the new velocity."""
    velocity = fma(c.momentum, moments[0], g)
    return fma(-rate, fma(c.momentum, velocity, g), p), (velocity,)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's variant (torch.optim.SGD).

    Parameters
    ----------
    learning_rate, clip_norm, groups : see `Optimizer`
    momentum : float
        In [0, 1]. velocity = momentum * velocity + gradient.
    nesterov : bool
        Step along gradient + momentum * velocity; needs a momentum above 0.
    bias_learning_rate : float, Schedule or function, optional
        A separate rate for the biases; `learning_rate` if None.
    """

    learning_rate: Rate = 1e-3
    momentum: float = number(0.0, 0, 1)
    nesterov: bool = False
    bias_learning_rate: Rate | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True needs a momentum above 0, got momentum=0")
        if self.bias_learning_rate is not None:
            as_schedule(self.bias_learning_rate)

    @property
    def own_rule(self) -> StepRule:
        """The step without an average."""
        return sgd if self.momentum == 0 else nesterov if self.nesterov else momentum


@rule(moments=2, constants="alpha epsilon momentum")
def rmsprop(p: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    """Along a velocity of gradients over their root mean square."""
    square, velocity = moments
    square = fma(c.alpha, square, (1.0 - c.alpha) * g * g)
    velocity = fma(c.momentum, velocity, quotient(g, root(square) + c.epsilon))
    return fma(-rate, velocity, p), (square, velocity)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Divide by a running root mean square of the gradient (torch.optim.RMSprop).

    Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5 (2012).

    Parameters
    ----------
    learning_rate, clip_norm, groups : see `Optimizer`
    alpha : float
        Smoothing of the mean square, in [0, 1).
    epsilon : float
        Added to the root; above 0.
    momentum : float
        In [0, 1).
    """

    learning_rate: Rate = 1e-2
    alpha: float = fraction(0.99)
    epsilon: float = positive(1e-8)
    momentum: float = fraction(0.0)
    own_rule = rmsprop


def _adam_moments(c: Any, g: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """Return the first and the second moment with a gradient."""
    return fma(c.beta1, first, (1.0 - c.beta1) * g), fma(c.beta2, second, (1.0 - c.beta2) * g * g)


def _adam_parameter(c: Any, p: Any, first: Any, second: Any, rate: Any, t: Any) -> Any:
    """Return a parameter moved along the first moment over the root of a second one."""
    unbias = 1.0 / sqrt(1.0 - decayed(c.beta2, t))
    epsilon = where(c.epsilon_hat > 0.0, c.epsilon * unbias, c.epsilon)
    move = quotient(first, fma(root(second), unbias, epsilon))
    return fma(-(rate / (1.0 - decayed(c.beta1, t))), move, p)


@rule(DECAY, moments=2, constants="beta1 beta2 epsilon epsilon_hat")
def adam(p: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    """Along the first moment over the root of the second, both corrected for their start at 0."""
    first, second = _adam_moments(c, g, *moments)
    return _adam_parameter(c, p, first, second, rate, t), (first, second)


@rule(DECAY, moments=3, constants="beta1 beta2 epsilon epsilon_hat")
def amsgrad(p: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    """Adam's step with the greatest second moment so far."""
    first, second = _adam_moments(c, g, *moments[:2])
    greatest = at_least(second, moments[2])
    return _adam_parameter(c, p, first, greatest, rate, t), (first, second, greatest)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adaptive moments (torch.optim.Adam).

    Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1.

    Parameters
    ----------
    learning_rate, clip_norm, groups : see `Optimizer`
    beta1, beta2 : float
        Decay of the first and the second moment, in [0, 1).
    epsilon : float
        Added to the root of the corrected second moment; above 0.
    epsilon_hat : bool
        Add epsilon to the root of the second moment before the correction: the paper's "epsilon hat" (end of
        section 2), as in TensorFlow and scikit-learn.
    amsgrad : bool
        Divide by the greatest second moment so far: Reddi, Kale and Kumar, "On the convergence of Adam and
        beyond" (2018), as in PyTorch.
    """

    learning_rate: Rate = 1e-3
    beta1: float = fraction(0.9)
    beta2: float = fraction(0.999)
    epsilon: float = positive(1e-8)
    epsilon_hat: bool = field(default=False, kw_only=True)
    amsgrad: bool = field(default=False, kw_only=True)

    @property
    def own_rule(self) -> StepRule:
        """The step without an average."""
        return amsgrad if self.amsgrad else adam


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (torch.optim.AdamW).

    Loshchilov and Hutter, "Decoupled weight decay regularization" (2019). As in PyTorch, all parameters
    decay, also of norms and biases: groups={"*Norm": Group(decay=0), "*.biases": Group(decay=0)} leaves both
    out.

    Parameters
    ----------
    learning_rate, clip_norm, groups : see `Optimizer`
    beta1, beta2, epsilon, epsilon_hat, amsgrad : see `Adam`
    weight_decay : float
        At least 0; every step multiplies the parameters by 1 - rate * weight_decay first.
    """

    weight_decay: float = number(0.01, 0)


@rule(moments=2, constants="beta1 beta2 epsilon epsilon_hat", sparse_updates=True)
def sparse_adam(p: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    """Adam's step, a sparse update."""
    first, second = _adam_moments(c, g, *moments)
    return _adam_parameter(c, p, first, second, rate, t), (first, second)


@dataclass(frozen=True)
class SparseAdam(Optimizer):
    """Adam for mostly zero inputs, with lazy updates (torch.optim.SparseAdam).

    A batch touches a row of the first layer's weights if the row's column of X, dense or sparse, has a number
    other than 0 in the batch. Other rows and their moments stay, so that a step's time follows the
    non-zeros of the batch. All other parameters take Adam's step, and moments are corrected by the number of
    all steps. A penalty counts in the gradients of updated rows only.

    Parameters
    ----------
    learning_rate, groups : see `Optimizer`
    beta1, beta2, epsilon : see `Adam` with epsilon_hat=True

    Notes
    -----
    There is no clip_norm: the norm would include rows without a step.
    """

    learning_rate: Rate = 1e-3
    beta1: float = fraction(0.9)
    beta2: float = fraction(0.999)
    epsilon: float = positive(1e-8)
    epsilon_hat: ClassVar[bool] = True
    own_rule = sparse_adam

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_norm is not None:
            raise ValueError(f"SparseAdam takes no clip_norm, got {self.clip_norm:g}; Adam does")


@rule(moments=3, constants="beta1 beta2 epsilon decay warmup", reads_last=True)
def schedule_free(y: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    """AdamW without a first moment, from z; gradients at y, between z and x, the mean of all z.

    Each z counts in x with the square of its rate: a fraction of 1 / t, or a fraction by the sum of squares
    with a warm-up.
    """
    square, z, x = moments
    z, x = where(t > 1.0, z, y), where(t > 1.0, x, y)
    square = fma(c.beta2, square, (1.0 - c.beta2) * g * g)
    unbias = 1.0 / sqrt(1.0 - decayed(c.beta2, t))
    move = quotient(g, fma(root(square), unbias, c.epsilon)) + c.decay * y
    w = at_least(c.warmup, 1.0)
    z = fma(-(rate * at_most(t / w, 1.0)), move, z)
    # Sums of squares of 1/w, 2/w, .., and then of ones, over the square of the last.
    counts = where(
        t < w,
        6.0 * t / ((t + 1.0) * (2.0 * t + 1.0)),
        1.0 / ((w + 1.0) * (2.0 * w + 1.0) / (6.0 * w) + (t - w)),
    )
    x = fma(counts, z - x, x)
    return fma(c.beta1, x - z, z), (square, z, x)


@dataclass(frozen=True)
class ScheduleFreeAdamW(Optimizer):
    """AdamW without a schedule (Defazio and others, "The road less scheduled", 2024; AdamWScheduleFree).

    Steps start from a first point, gradients are taken at a second, and predictions and validation read a
    third: the mean of the first points of all steps. So there is no rate to decay, and no length to choose.

    Parameters
    ----------
    clip_norm, groups : see `Optimizer`
    learning_rate : float
        At least 0; a number, since the mean takes the place of a schedule.
    beta1 : float
        In [0, 1); the fraction of the mean in the point of the gradients.
    beta2 : float
        Decay of the second moment, in [0, 1).
    epsilon : float
        Added to the root of the second moment; above 0.
    weight_decay : float
        At least 0; towards 0 at the point of the gradients.
    warmup : int
        Steps with a rate rising from 0, and with less weight in the mean; at least 0.

    Notes
    -----
    A `Stepper`'s `forward` reads the point of the gradients, `model()` reads the mean.
    """

    learning_rate: Rate = 2.5e-3
    beta1: float = fraction(0.9)
    beta2: float = fraction(0.999)
    epsilon: float = positive(1e-8)
    weight_decay: float = number(0.0, 0)
    warmup: int = count(0, default=0)
    own_rule = schedule_free

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.learning_rate, Schedule) or callable(self.learning_rate):
            raise TypeError(
                "ScheduleFreeAdamW takes a number for learning_rate, and warmup; it needs no schedule"
            )


NEWTON_SCHULZ, NEWTON_SCHULZ_ROUNDS, SMALLEST_NORM = (3.4445, -4.7750, 2.0315), 5, 1e-7
"""Constants of `muon`: rounds of a x + (b x x' + c (x x')^2) x, and the least norm as a divisor."""


@rule(DECAY, moments=2, orthogonal=True)
def muon(p: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    """Along an orthogonal matrix; the second moment is for parameters of `adam`."""
    return fma(-rate, g, p), moments


@dataclass(frozen=True)
class Muon(Optimizer):
    """Orthogonal steps for matrices of weights, AdamW's for other parameters (Jordan 2024; torch.optim.Muon).

    The momentum of a matrix (nesterov=True: the mean of momentum and gradient) is divided by the norm, and
    five rounds of Newton and Schulz bring singular values near 1. Multiplied by 0.2 sqrt(max(n_in, n_out))
    the step is as large as AdamW's, so that a single rate and decay serve both:
    adjust_lr_fn="match_rms_adamw".

    Parameters
    ----------
    learning_rate, clip_norm, groups : see `Optimizer`
    momentum : float
        Decay of the mean of gradients of a matrix, in [0, 1).
    nesterov : bool
    beta1, beta2, epsilon : as for `AdamW`, for biases, gains and embeddings
    weight_decay : float
        At least 0; every step multiplies the parameters by 1 - rate * weight_decay first.

    Notes
    -----
    Products are in the training's dtype, while PyTorch's are in bfloat16. A step has 15 products of matrices
    besides those of the gradient, for any batch size.
    """

    learning_rate: Rate = 1e-3
    momentum: float = fraction(0.95)
    nesterov: bool = True
    beta1: float = fraction(0.9)
    beta2: float = fraction(0.999)
    epsilon: float = positive(1e-8)
    weight_decay: float = number(0.01, 0)
    own_rule = muon

    @property
    def rules(self) -> tuple[StepRule, ...]:
        """All rules of the optimiser's parts."""
        return self.rule, self._adamw().rule

    def of_layer(self, operation: Operation) -> tuple[Optimizer, Optimizer]:
        """Return the optimisers of an operation's weights or gain, and of biases or shift."""
        first, second = super().of_layer(operation)
        assert isinstance(first, Muon)
        assert isinstance(second, Muon)
        return first if operation.is_dense else first._adamw(), second._adamw()

    def _adamw(self) -> AdamW:
        return AdamW(
            self.learning_rate, self.beta1, self.beta2, self.epsilon, weight_decay=self.weight_decay,
            averaging=self.averaging, keeps_signs=self.keeps_signs,
        )  # fmt: skip


NAMED: tuple[type[Optimizer], ...] = tuple(
    kind for kind in vars().copy().values() if isinstance(kind, type) and kind.__module__ == __name__
)
"""The built-in optimisers: all classes above."""

BY_NAME: dict[str, type[Optimizer]] = {kind.__name__.lower(): kind for kind in NAMED}
"""The built-in optimisers by lower-case name, also for the command line."""


OPTIMIZERS = (*NAMED, *WHOLE, RuleOptimizer)
"""All optimisers, custom rules included."""


@functools.lru_cache(maxsize=64)
def without_rates(optimizer: Optimizer) -> Optimizer:
    """Return an optimiser with equal steps at rates of 0."""
    # The choice of a backend and compiling use no rates; a background process must get no user's function.
    names = [field.name for field in fields(optimizer) if field.name.endswith("learning_rate")]
    rates: dict[str, Any] = {name: 0.0 for name in names if getattr(optimizer, name) is not None}
    return replace(optimizer, **rates)


@functools.cache
def _usual(name: str) -> Optimizer:
    return BY_NAME[name]()  # type: ignore[call-arg]  # all of these have a usual rate


def as_optimizer(what: str, given: object, of_batches: bool = False) -> Optimizer:
    """Return an optimiser, or the default optimiser of a name; ValueError or TypeError for other values.

    of_batches : whether steps are of batches, and no other rule will do
    """
    if isinstance(given, str):
        return _usual(checks.choice(what, given, tuple(BY_NAME), ", or an object, as Adam(0.001)"))
    check_optimizer(what, given)
    assert isinstance(given, Optimizer)
    if of_batches and given.whole:
        raise ValueError(f"{what} must take steps of batches, got {type(given).__name__}, which fit takes")
    return given


def check_optimizer(what: str, optimizer: object) -> None:
    """Raise TypeError unless `optimizer` is of a type in OPTIMIZERS."""
    # A subclass would train by the rule of its parent.
    if type(optimizer) in OPTIMIZERS:
        return
    expected = f"an {', '.join(kind.__name__ for kind in (*NAMED, *WHOLE))}, or what a Rule makes"
    checks.instance(what, optimizer, OPTIMIZERS, expected)
    parent = next(kind.__name__ for kind in type(optimizer).__mro__ if kind in OPTIMIZERS)
    raise TypeError(
        f"{what} must be {expected}, got {checks.shown(optimizer)}; a subclass would train as {parent}"
    )
