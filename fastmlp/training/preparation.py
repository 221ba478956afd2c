"""Preparation of a training, from options and rows to a `Training` before the first step.

All randomness comes from independent streams, so every backend sees the same start, split, row orders and
dropout masks. With several processes each step here may fail on one of the ranks alone, and all ranks learn
of the failure (`fastmlp.training.ranks`).
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import checks
from fastmlp.backend.choice import cacheable_backend, calls_blas, choose
from fastmlp.backend.registry import given, is_exact
from fastmlp.callbacks.callback import Callback
from fastmlp.callbacks.standard import EarlyStopping
from fastmlp.data.arrays import checked_weights, clean, clean_rows_of, clean_targets, scaled_weights
from fastmlp.data.batches import batches_of
from fastmlp.data.seeding import RowOrders, generator, split_rows, words
from fastmlp.data.sparse import inputs_of_steps, may_become_sparse
from fastmlp.model.averages import with_average
from fastmlp.model.backend import Data
from fastmlp.model.layout import (
    aligned,
    aligned_copy,
    drawn,
    drawn_of_each,
    flatten,
    parameter_count,
    settle_bins,
)
from fastmlp.model.monotone import project
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Optimizer
from fastmlp.model.rows import ByteRows, Inputs, dense_columns, unpacked
from fastmlp.model.schedules import BEGINNING
from fastmlp.model.state import Array, TrainState, initial_state
from fastmlp.system.budget import available_cores
from fastmlp.trained import format_of
from fastmlp.trained.model import Model
from fastmlp.training.ranks import ALONE, Ranks
from fastmlp.training.snapshot import sample_of
from fastmlp.training.training import Training, in_memory

Initial = tuple[Sequence[ArrayLike], Sequence[ArrayLike]]


def prepare(
    network: Network, X: Any, y: Any, options: Any, ranks: Ranks = ALONE, trainings: int = 1
) -> Training:
    """Return a training before the first step; errors as of `fit`.

    options : `fastmlp.fitting.FitOptions`, checked, the same on all ranks
    ranks : the processes of the training, which call this at the same time
    trainings : the number of such trainings; "auto" chooses for all
    """
    if options.seed is None:
        options = options.having(seed=drawn_seed(options))
    window, file = options.window, options.file
    validation, sample_weight = options.validation, options.sample_weight
    with ranks.raise_on_all_ranks():
        dtype = np.float32 if options.mixed else options.dtype
        # As several ranks have them, whose orders are those of all rows: a file goes on at any size.
        if ranks.by_rows or (file is not None and file.by_rows and y is not None and window is None):
            blocks = format_of("blocks")
            blocks.check_no_blocks(y, window)
            X, y, sample_weight = blocks.arrays_of(X, y, sample_weight)
            if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
                validation = blocks.arrays_of(*validation)
        elif (
            y is None
            or window is not None
            or not (type(X) is np.ndarray or (network.blocks and isinstance(X, (list, tuple, Mapping))))
        ):
            blocks = format_of("blocks")  # 3 ms, which arrays do not need
            source = blocks.source_of("X", X, y, sample_weight, dtype, network.input_scale, window)
            if source is not None:
                trained: Training = blocks.prepare(network, source, options, dtype)
                return trained
        data = cleaned(network, X, y, sample_weight, dtype, ranks)
    data, held_out = scaled(data, sample_weight is not None, ranks), None
    if validation is not None:
        data, held_out = split(network, data, validation, options.seed, ranks)
    rows = ranks.count_rows(len(data.weights))
    return ready(network, options, data, held_out, rows, ranks, trainings=trainings)


def ready(
    network: Network,
    options: Any,
    data: Data,
    held_out: Any,
    rows: int,
    ranks: Ranks = ALONE,
    *,
    trainings: int = 1,
    is_sized: bool = True,
    blocks: dict[str, Any] | None = None,
    state: TrainState | None = None,
) -> Training:
    """Return a training on clean rows, in memory or in blocks.

    options : with a seed
    data : this rank's rows, all or those of the first window; held_out : validation rows
    rows : of an epoch on all ranks, 0 if unknown; is_sized : True if known before rows are read
    ranks, trainings : as of `prepare`
    blocks : the setting's part for blocks; None for rows in memory
    state : the first state of an estimator, which draws parameters and orders and keeps no setting
    """
    earlier, file, is_array = options.resume, options.file, blocks is None
    more = earlier if file is None else None
    epochs, dtype, callbacks = options.epochs, data.weights.dtype, options.callbacks
    most, whole = rows or sys.maxsize, bool(options.optimizer.whole)
    if whole and (ranks.size > 1 or not is_array):
        got = f"{ranks.size} ranks" if ranks.size > 1 else "blocks of rows"
        raise ValueError(f"{type(options.optimizer).__name__} takes rows of one process in memory, got {got}")
    batch_size = min((None if whole else options.batch_size) or most, most)
    step = min(batch_size * options.accumulate, most)
    per_epoch, rank_rows = batches_of(rows, step, network.needs_batches), -(-batch_size // ranks.size)
    in_file = file is not None or ranks.any_of(any(one.writes_training for one in callbacks))
    start: Callable[[], Any] | None = None
    with ranks.raise_on_all_ranks():
        measures = list[Callback]()
        if options.metrics:
            measured = data if is_array else None, in_memory(held_out)
            given = options.metrics, options.training_metrics, network
            measures += format_of("metrics").metrics_of(*given, *measured, ranks)
        if whole and held_out is not None and options.optimizer.patience is not None:
            measures.append(EarlyStopping(options.optimizer.patience))
        if network.needs_batches and epochs and rows:
            network.check_rows(np.array([batch_size]))
        steps = epochs * per_epoch if per_epoch else None
        optimizer, chosen, becomes_sparse, may_call_blas = chosen_backend(
            network, options, rank_rows, dtype, steps and steps * trainings, steps if is_sized else None
        )
        if state is not None:
            parameters = state.parameters
        elif more and not in_file:  # what it begins with is taken over; a file says what it would be
            parameters = aligned(parameter_count(network), dtype)
        else:
            seen = data.inputs if len(data.inputs) else None  # of several ranks, those of the first
            start = functools.partial(initial_parameters, network, options.initial, dtype, options.seed, seen)
            parameters = start()
    taken_by, callbacks = ranks.started(chosen, parameters, [*measures, *callbacks], optimizer.moment_rows)
    if taken_by is not chosen:  # that of the first rank
        chosen = taken_by
        becomes_sparse = may_become_sparse(chosen, network, optimizer, rank_rows, dtype)
        may_call_blas = calls_blas(chosen)
    sample = "" if is_array else sample_of(data, in_memory(held_out))
    resumed, since, other_steps = earlier, BEGINNING, 0
    if more:
        known: str | None = sample
        if is_array:
            known = sample_of(data, in_memory(held_out), ranks) if more.sample else None
        with ranks.raise_on_all_ranks():
            resumed = more.begin(rows if is_array else None, known, held_out is not None, callbacks)
        epochs += len(resumed.history["loss"])
    if resumed is not None:
        since, other_steps = resumed.since, resumed.other_steps
    rule_steps = since.step - other_steps
    if state is None:
        state = initial_state(parameters, optimizer.moment_rows, rule_steps)
        optimizer.write_signs(network, state.moments)
        key, weighed = dropout_key(network, options.seed), options.sample_weight is not None
    else:
        key, weighed = 0, True
    training = Training(
        network=network,
        optimizer=optimizer,
        backend=ranks.runner(chosen, per_epoch, data, rule_steps),
        data=data,
        given_data=data,
        held_out=held_out,
        state=state,
        callbacks=callbacks,
        resumed=resumed,
        options=options,
        ranks=ranks,
        epochs=epochs,
        step_rows=step,
        microbatch=batch_size if batch_size < step else 0,
        orders=RowOrders(options.seed) if options.shuffle and per_epoch != 1 else None,
        dropout_key=key,
        threads=options.threads,
        calls_blas=bool(callbacks) or may_call_blas,
        since=since,
        other_steps=other_steps,
        weighed=weighed or not is_array or ranks.size > 1,
        start=start if options.initial is None and ranks.size == 1 and is_array else None,
        rows=rows if is_array else None,
        sample=sample,
    )
    if becomes_sparse and options.mixup is None and is_array and len(data.inputs):
        taken = inputs_of_steps(chosen, network, optimizer, rank_rows, data.inputs, epochs)
        if taken is not data.inputs:
            training.data = data._replace(inputs=taken)
    if ranks.size > 1:
        training.all_weights = ranks.weights(data)
        if network.heads:
            of_heads = network.head_weights(data.targets, data.weights)
            training.all_head_weights = ranks.of_all_rows(of_heads)
    if whole:
        _take_all_rows(training)
    if in_file:
        format_of("saving").set_setting(
            training, chosen.name, parameters, batch_size, per_epoch=per_epoch, blocks=blocks or {}
        )
    return training


def _take_all_rows(training: Training) -> None:
    """Let a training take steps on all rows (`fastmlp.second_order`)."""
    training.optimizer.check_layers(training.network)
    training.backend = format_of("whole_data").WholeDataSteps(training)
    training.step_rows, training.orders, training.microbatch = len(training.data.weights), None, 0
    training.blas_threads, training.calls_blas = 1, True


MOST_KNOWN = 64

known_choices: dict[Any, tuple[Any, bool, bool]] = {}
"""Choices that hold for all trainings of equal work: to choose takes 6 us, 6 % of a small fit."""


def chosen_backend(
    network: Network, options: Any, rows: int, dtype: np.dtype[Any], steps: int | None, averaged: int | None
) -> tuple[Optimizer, Any, bool, bool]:
    """Return the optimiser and the backend of steps, and whether these take sparse rows, and call a BLAS.

    ValueError if average or backend do not suit the options.

    rows : of a batch; steps : of all such trainings
    averaged : steps of this training, for an average; None if unknown before rows are read
    """
    threads, optimizer, earlier = options.threads, options.optimizer, options.resume
    if threads is None and options.backend == "auto":
        threads = available_cores()  # the choice goes by the cores that are left
    if options.average is not None:
        optimizer = with_average(optimizer, options.average, averaged)
    # What reads all rows calls the backend for losses and gradients only, whatever the rule.
    rule = SGD(0.0) if optimizer.whole else optimizer
    name, exact = options.backend, earlier is not None and is_exact(earlier.backend)
    if earlier is not None and name == "auto" and not exact:
        name = earlier.backend
    work = name, network, rule, rows, dtype, threads, steps, exact, options.mixed
    if (known := known_choices.get(work)) is not None and not given():
        return optimizer, *known
    backend = choose(name, network, rule, rows, dtype, threads, steps=steps, exact=exact, mixed=options.mixed)
    settled = cacheable_backend(backend)
    backend = settled or backend
    sparse = not optimizer.whole and may_become_sparse(backend, network, optimizer, rows, dtype)
    chosen = backend, sparse, calls_blas(backend)
    if settled is not None and not given():
        if len(known_choices) >= MOST_KNOWN:
            known_choices.clear()
        known_choices[work] = chosen
    return optimizer, *chosen


# --- rows in memory, of one process or of several -------------------------------------------------------


def cleaned(
    network: Network, X: Any, y: Any, sample_weight: Any, dtype: Any, ranks: Ranks, what: str = ""
) -> Data:
    """Return this rank's rows, clean, with unscaled weights. what : a prefix of names in errors"""
    inputs = clean_rows_of(f"{what}X", network, X, dtype, least=0 if ranks.size > 1 else 1)
    rows = inputs.shape[0]
    targets = clean_targets(f"{what}y", y, network, rows, inputs.dtype)
    if sample_weight is None:
        weights = np.empty(rows, inputs.dtype)
        weights.fill(1)  # np.ones takes 3 us for a few
    else:
        weights = checked_weights(f"{what}sample_weight", sample_weight, rows, inputs.dtype)
    return Data(inputs, targets, weights)


def scaled(data: Data, weighed: bool, ranks: Ranks, what: str = "") -> Data:
    """Return this rank's rows with scaled weights: the largest on all ranks is in [1, 2).

    weighed : True if weights are given here; what : as of `cleaned`
    """
    if not weighed and ranks.size == 1:
        return data
    largest = float(data.weights.max(initial=0.0)) if weighed else 1.0
    received = ranks.all_of((len(data.weights), largest))
    with ranks.raise_on_all_ranks():
        if not any(rows for rows, _ in received):
            raise ValueError(f"{what}X must hold at least 1 row, got 0 on all ranks")
        weights = scaled_weights(f"{what}sample_weight", data.weights, max(most for _, most in received))
    return data._replace(weights=weights)


def validation_rows(
    network: Network, validation: Sequence[Any], dtype: np.dtype[Any], ranks: Ranks = ALONE
) -> Data:
    """Return validation=(X, y) or (X, y, sample_weight) as this rank's clean rows."""
    with ranks.raise_on_all_ranks():
        if len(validation) not in (2, 3):
            raise ValueError(
                f"validation must be (X, y) or (X, y, sample_weight), got {len(validation)} parts"
            )
        X, y, *rest = validation
        weights = rest[0] if rest else None
        data = cleaned(network, X, y, weights, dtype, ranks, "validation ")
    return scaled(data, weights is not None, ranks, "validation ")


def split(network: Network, data: Data, validation: Any, seed: int, ranks: Ranks) -> tuple[Data, Data]:
    """Return this rank's training rows and validation rows."""
    if isinstance(validation, (tuple, list)):
        return data, validation_rows(network, validation, data.inputs.dtype, ranks)
    rows = ranks.count_rows(len(data.weights))
    with ranks.raise_on_all_ranks():
        # Of the rows of all ranks: the split does not depend on how they are spread.
        parts = split_rows(validation, rows, seed)
    (train_rows, _), (held_rows, _) = map(ranks.rank_rows, parts)
    # A rank may have no row of a part, so that the check is of all ranks' rows together.
    weighed = ranks.total(np.array([data.weights[some].any() for some in (train_rows, held_rows)], np.int64))
    with ranks.raise_on_all_ranks():
        for what, found in zip(("training", "validation"), weighed, strict=True):
            if not found:
                raise ValueError(f"sample_weight is all zero on the {what} rows of the split")
    return data.take(train_rows), data.take(held_rows)


# --- first weights and biases, drawn or given -------------------------------------------------------------


def drawn_seed(options: Any) -> int:
    """Return the seed of the resumed training, or a new seed."""
    return int(options.resume.seed if options.resume else int.from_bytes(os.urandom(16), "little"))


def dropout_key(network: Network, seed: int) -> int:
    """Return the key of a training's dropout masks, 32 bits; 0 without dropout."""
    return int(words(seed, "dropout")[0]) >> 32 if network.drops else 0


def _in_words(layer: tuple[str, str, int, int, bool] | None) -> str:
    if layer is None:
        return "none"
    name, kind, n_in, n_out, trains_bias = layer
    return f"{name} ({kind}, {n_in} to {n_out}{'' if trains_bias else ', no bias'})"


def _copied(model: Model, network: Network, dtype: np.dtype[Any]) -> Array:
    """Return a copy of a model's parameters for a network of the same shapes."""
    expected, got = (
        [
            (one.name, one.kind.key, one.n_in, one.n_out, one.trains_bias)
            for one in each.operations
            if one.end > one.weights
        ]
        for each in (network, model.network)
    )
    for ours, theirs in itertools.zip_longest(expected, got):
        if ours is None or theirs is None or ours[1:] != theirs[1:]:
            raise ValueError(
                f"initial must be a model of such layers: it has {_in_words(theirs)} where the network has "
                f"{_in_words(ours)}"
            )
    return aligned_copy(clean("the parameters of initial", model.parameters.reshape(1, -1), dtype)[0])


CACHED_PARAMETERS = 1 << 12
"""Starts of up to so many parameters are cached, 32 KiB each: a draw took a fifth of a small training.

The next fold, and a training with another rate, begins with the same parameters.
"""


@functools.lru_cache(maxsize=32)
def _cached_start(network: Network, seed: int, dtype: np.dtype[Any]) -> Array:
    """Return a training's first parameters, read-only by convention."""
    return drawn(network, generator(seed, "initial"), dtype)


def drawn_starts(network: Network, seeds: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Return the first parameters (seeds, P) of trainings of a network, without bins by quantiles."""
    starts = np.empty((len(seeds), parameter_count(network)), dtype)
    drawn_of_each(network, (generator(seed, "initial") for seed in seeds), starts)
    return starts


def initial_parameters(
    network: Network,
    initial: Model | Initial | None,
    dtype: np.dtype[Any],
    seed: int,
    rows: Inputs | ByteRows | None = None,
) -> Array:
    """Return the first parameters (P,) of a training, given or drawn.

    rows : for bins by quantiles; ValueError without rows where the network has such bins
    """
    # Bins by quantiles depend on the rows, which are no part of the cache's key.
    if initial is None and parameter_count(network) <= CACHED_PARAMETERS and not network.settles:
        return aligned_copy(_cached_start(network, seed, dtype))
    if initial is None:
        parameters = drawn(network, generator(seed, "initial"), dtype)
        if network.settles:
            if rows is None:
                raise ValueError("bins by quantiles need rows: give the edges, or initial=a model")
            settle_bins(parameters, network, dense_columns(unpacked(rows)))
        return parameters
    if isinstance(initial, Model):
        if not (network.is_chain and initial.network.is_chain):
            return project(_copied(initial, network, dtype), network)
        initial = initial.weights, initial.biases
    required, names = "a Model or a pair of lists, (weights, biases)", ("initial weights", "initial biases")
    return project(flatten(*clean_pair("initial", required, names, initial, dtype), network, dtype), network)


def clean_pair(
    what: str, required: str, names: tuple[str, str], pair: Any, dtype: np.dtype[Any]
) -> tuple[list[Array], list[Array]]:
    """Return a pair of lists of arrays, (weights, biases), clean; names : of the lists, for errors"""
    try:
        weights, biases = (list(arrays) for arrays in pair)
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be {required}, got {checks.shown(pair)}") from None

    def cleaned(name: str, arrays: list[Any]) -> list[Array]:
        return [clean(f"{name}[{i}]", checks.real_array(name, one), dtype) for i, one in enumerate(arrays)]

    return cleaned(names[0], weights), cleaned(names[1], biases)
