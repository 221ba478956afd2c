"""Times of whole training steps; each backend first trains to the reference's losses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backend.registry import choice_of, is_reference
from fastmlp.fitting import fit
from fastmlp.kernels.variant import Work
from fastmlp.lab import peers
from fastmlp.lab.measurements import STEP, Measurement, Wrong, in_short
from fastmlp.lab.peers import PeerTraining
from fastmlp.lab.timing import CLOCKS, Clock, StepsTimer, Trained, once, timed
from fastmlp.model.component import Part
from fastmlp.model.layers import Dense
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Adam, Optimizer
from fastmlp.model.state import is_bfloat16
from fastmlp.trained.model import Model

AGREED_STEPS = 8
"""Steps with compared losses."""

TURNED = 1e-4
"""Error of losses with bfloat16 products, where a last bit of float32 turns a rounding."""

ROUND = 0.02
"""Seconds of a round at least, unless a round is a single epoch."""

MOST_STEPS, MOST_FLOPS = 2000, 2e8
"""Steps of an epoch: in a long epoch the work between two epochs counts for little."""


class StepRow(NamedTuple):
    """Training steps of a network, an optimiser and a batch size."""

    network: Network
    optimizer: Optimizer
    batch: int
    dtype: str
    threads: int

    @property
    def shape(self) -> str:
        """Widths and batch size as a word."""
        return f"{'-'.join(map(str, self.network.widths))} b{self.batch}"

    @property
    def case(self) -> str:
        """The optimiser's name."""
        return type(self.optimizer).__name__.lower()

    def __str__(self) -> str:
        return f"{STEP} {self.shape} {self.dtype} {self.threads} threads"

    def work(self) -> Work:
        """Return the work for estimates."""
        return Work.of(self.network, self.optimizer, self.batch, self.floats, self.threads)

    @property
    def floats(self) -> np.dtype[Any]:
        """The dtype of stored numbers."""
        return np.dtype(np.float32 if is_bfloat16(self.dtype) else self.dtype)


def classifier(*sizes: int, layers: Sequence[Part] = ()) -> Network:
    """Return a network of relu and softmax, or of these hidden layers between two sizes."""
    output, loss = ("softmax", "cross_entropy") if sizes[-1] > 1 else ("sigmoid", "binary_cross_entropy")
    if layers:
        return Network(inputs=sizes[0], layers=[*layers, Dense(sizes[-1])], output=output, loss=loss)
    return Network(sizes, output=output, loss=loss)


USUAL: tuple[tuple[Network, Optimizer, int], ...] = (
    (Network([3, 4, 1], output="sigmoid", loss="mse"), SGD(1.2, bias_learning_rate=0.3), 4),
    (classifier(64, 128, 10), Adam(), 32),
    (classifier(784, 128, 10), SGD(0.1), 128),
    (classifier(28, 256, 256, 2), Adam(), 256),
)
"""Default works: the notebook's, then from small to large."""


def step_rows(
    given: Sequence[tuple[Network, Optimizer, int]], dtypes: Sequence[str], threads: Sequence[int]
) -> Iterator[StepRow]:
    """Yield the rows of trainings."""
    for (network, optimizer, batch), dtype, count in itertools.product(given or USUAL, dtypes, threads):
        yield StepRow(network, optimizer, batch, dtype, count)


def workers(row: StepRow, name: str) -> int:
    """Return a backend's threads for a step of the row; for "auto" all."""
    if name == "auto":
        return row.threads
    if is_reference(name):
        return 1
    choice, of_its_own = choice_of(name), None
    if choice.specialize is not None:
        of_its_own = choice.specialize(row.network, row.optimizer, row.batch, row.floats)
    return 1 if of_its_own is not None or choice.workers is None else choice.workers(row.work())


def epoch_steps(row: StepRow) -> int:
    """Return the steps of a timed epoch."""
    return max(AGREED_STEPS, min(MOST_STEPS, int(MOST_FLOPS / row.work().flops)))


def _data(row: StepRow, steps: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    sizes = row.network.widths
    X = rng.standard_normal((row.batch * steps, sizes[0])).astype(row.floats)
    if row.network.loss in ("cross_entropy", "binary_cross_entropy"):
        return X, rng.integers(0, max(2, sizes[-1]), len(X))
    return X, rng.standard_normal((len(X), sizes[-1])).astype(row.floats)


def trained(
    row: StepRow, name: str, data: tuple[Any, Any], epochs: int, clock: Clock = CLOCKS["wall"]
) -> Trained:
    """Train a backend or a peer on the data; return losses and seconds."""
    timer = StepsTimer(clock)
    if name in peers.PEERS:
        start = _fitted(row, "reference", data, 0, timer)
        training = PeerTraining(start, row.optimizer, row.batch, row.threads, *data)
        run, losses = peers.PEERS[name].prepare(training), list[float]()
        seconds = once(lambda: losses.extend(run(epochs)), clock)
        return losses, seconds
    model = _fitted(row, name, data, epochs, timer)
    return model.history["loss"], timer.seconds


def _fitted(row: StepRow, backend: str, data: tuple[Any, Any], epochs: int, timer: StepsTimer) -> Model:
    return fit(
        row.network, *data, optimizer=row.optimizer, epochs=epochs, batch_size=row.batch, shuffle=False,
        seed=0, backend=backend, threads=row.threads, dtype=row.dtype, progress=False, callbacks=[timer],
    )  # fmt: skip


def measure(row: StepRow, names: Sequence[str], budget: float, clock: str) -> Iterator[Measurement | Wrong]:
    """Yield each backend's time of a step on the row's threads, or the mistake; as `slot_times.measure`."""
    data, few = _data(row, epoch_steps(row)), _data(row, AGREED_STEPS)
    expected = np.array(trained(row, "reference", few, 1)[0])
    # Roundings of dot products over the widest layer, gathered at random over the steps, 8 sigma.
    allowed = 8 * np.finfo(row.floats).eps * np.sqrt(max(row.network.widths) * AGREED_STEPS)
    if is_bfloat16(row.dtype):
        allowed = TURNED
    calls = {}
    for name in names:
        if name not in peers.PEERS and workers(row, name) != row.threads:
            continue
        try:
            off = np.abs(np.array(trained(row, name, few, 1)[0]) / expected - 1).max()
        except Exception as error:  # a user's kernel may raise anything
            yield Wrong(STEP, row.case, row.shape, row.dtype, name, in_short(error))
            continue
        if not off <= allowed + peers.off(name, row.optimizer):
            message = f"the loss of {AGREED_STEPS} steps is off by {off:.3g}, allowed is {allowed:.3g}"
            yield Wrong(STEP, row.case, row.shape, row.dtype, name, message)
            continue
        calls[name] = _call(row, name, data)
    for name, taken in timed(calls, budget, clock, row.threads).items():
        yield Measurement(
            STEP, row.case, row.shape, row.dtype, name, row.threads, taken, row.work().flops, traffic(row)
        )


def traffic(row: StepRow) -> int:
    """Return the least bytes of a step: batch read, parameters and moments read and written."""
    numbers = row.batch * (row.network.n_in + row.network.n_out)
    moments = row.optimizer.rule.moments
    return (numbers + 2 * (1 + moments) * parameter_count(row.network)) * row.floats.itemsize


def _call(row: StepRow, name: str, data: tuple[Any, Any]) -> Callable[[Clock], float]:
    _, seconds = trained(row, name, data, 1)
    epochs = max(1, int(ROUND / max(seconds, 1e-6)))
    return lambda clock: trained(row, name, data, epochs, clock)[1] / (epochs * epoch_steps(row))
