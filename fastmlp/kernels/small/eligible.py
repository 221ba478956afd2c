"""Networks with a specialised program, alone or in lanes, and its constants. Loads no compiler."""

import functools
from itertools import pairwise

import numpy as np

from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, OPERATION_CODES, RULE_CODES
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.small.layouts import SmallConstants, Step, lanes_of, layout_of, plan
from fastmlp.kernels.variant import SpecializedProgram
from fastmlp.model.activations import activation_of
from fastmlp.model.inputs import sparse_columns
from fastmlp.model.layout import parameter_count
from fastmlp.model.losses import loss_of
from fastmlp.model.optimizers import RuleOptimizer

PROGRAMS = "fastmlp.kernels.small.programs"

BLOCK_ROWS = 64
"""Rows that go through the network together: 128 and 256 were no faster at 30-100-1 and 4-32-16-4."""

MOST_UNITS, MOST_PARAMETERS, MOST_LAYERS = 128, 1 << 14, 8
"""The largest networks with a gain: at 64-128-10, 9 610 parameters, `fused` takes 1.5 times as long, later less."""

MOST_OPERATIONS = 24
"""The most operations of a network with a program: each is compiled."""

STAGES = {"dense", "copy", "activation", "concatenate"}
"""The kinds of operations without a formula of a row that small networks' programs write, too."""

MOST_ROWS = 16
"""The most rows of a batch where a network stays in registers."""

MOST_VECTORS = 64
"""The most vectors of parameters of such a network on 32 registers; half as many on 16, where 49 vectors took 2.5 times
as long as padded arrays.
"""


def has_stages(network):
    """Return whether a network has a stage for each operation, activation and loss.

    Hidden logits are not stored, so a derivative must be computed from the activation's value.
    """
    if not all(has_stage(op, network) for op in network.operations):
        return False
    hidden = [activation_of(op.activation) for op in network.operations[:-1] if op.is_dense]
    if any("z" in entry.reads or not _keeps_padding(entry) for entry in hidden):
        return False
    loss = loss_of(network.loss)  # a formula of each target, with a single parameter for all
    one_parameter = len({*network.objective.loss_parameters}) == 1
    return loss.element is not None and loss.of_logs == (network.output == "softmax") and one_parameter


def has_stage(op, network):
    """Return whether an operation of a single network has a stage or a formula of a row.

    A product has trained biases, and no penalty besides the network's l2.
    """
    plain = not op.is_dense or (op.trains_bias and op.l1 == 0 and op.l2 == network.l2)
    return plain and op.networks == 1 and (op.kind.key in STAGES or op.kind.value is not None)


def has_one_step(optimizer):
    """Return whether all parameters take steps by the same formula with the same numbers."""
    return not optimizer.groups and not optimizer.rule.orthogonal


TIMES, RATES = (*range(1, 33), 100, 1000, 10**4, 10**6), (1e-6, 1e-3, 1.0)
"""The steps and rates of a user's rule that are tried."""


@functools.cache
def _keeps_padding(activation):
    """Return whether padding, with logits and deltas of 0, gets finite activations and deltas of 0."""
    if not activation.digest:
        return True
    zero = np.zeros(1)
    with np.errstate(all="ignore"):
        a = activation.on_array(zero)
        delta = activation.backward_on_array(zero, zero, a)
    return bool(np.isfinite(a).all() and (delta == 0).all())


@functools.lru_cache(maxsize=64)
def _stays_zero(optimizer):
    """Return whether a step leaves padding at 0: parameters, gradients and moments of 0."""
    if not isinstance(optimizer, RuleOptimizer):
        return True
    rule, zero = optimizer.made_by, np.zeros(1)  # a mean of zeros is zero, and so is a decayed zero
    with np.errstate(all="ignore"):
        return all(
            (value == 0).all()
            for rate in RATES
            for t in TIMES
            for value in rule.on_arrays(zero, zero, (zero,) * rule.moments, rate, optimizer.values, t)
        )


def is_small(network):
    """Return whether a network is small enough to gain by constants."""
    widths = network.n_in, *(op.width for op in network.operations)
    fits = len(network.widths) <= MOST_LAYERS and len(network.operations) <= MOST_OPERATIONS
    return fits and max(widths) <= MOST_UNITS and network.operations[-1].end <= MOST_PARAMETERS


def steps_of(network):
    """Return the operations of a network in constants, and register their codes."""
    for op in network.operations:
        ACTIVATION_CODES.code(activation_of(op.activation)), OPERATION_CODES.code(op.kind)
    return tuple(
        Step(
            op.kind.key, op.sources, op.subrows * op.n_in, op.width, activation_of(op.activation).key,
            op.dropout, op.adds, op.weights, op.subrows, op.second,
        )
        for op in network.operations
    )  # fmt: skip


def _constants(network, rule, dtype, **others):
    """Return constants of a network, and register the codes by which the program finds components."""
    loss = loss_of(network.loss)
    LOSS_CODES.code(loss), RULE_CODES.code(rule)
    return SmallConstants(
        steps_of(network), network.output, loss.key, rule.key, network.objective.clips, network.l2 > 0, dtype.name,
        **others,
    )  # fmt: skip


@functools.lru_cache(maxsize=64)
def specialize(network, optimizer, rows, dtype):
    """Return the network's specialised `train_chunk` for batches of up to `rows` rows, or None."""
    if not has_one_step(optimizer) or optimizer.clip_norm is not None:
        return None
    if network.heads or len(network.blocks) > 1 or sparse_columns(network.blocks):  # which read some columns
        return None
    if not (is_small(network) and has_stages(network) and _stays_zero(optimizer)):
        return None
    rule, loss = optimizer.rule, loss_of(network.loss)
    together = BLOCK_ROWS // 2 if rows <= BLOCK_ROWS // 2 else BLOCK_ROWS
    constants = _constants(network, rule, dtype, rows=together, blocks=rows > BLOCK_ROWS)
    objective = network.objective
    means = (objective.divisor, objective.value_divisor) == (network.n_out // loss.outputs_per_target, 1)
    plain = rule.key == "sgd" and not (constants.l2 or constants.clips) and not loss.of_logs and means
    plain = plain and network.is_chain and not network.drops
    if plain and fits_registers(network.widths, rows, dtype.itemsize):
        held = constants._replace(lanes=lanes_for(rows), rows=0, blocks=False)
        return SpecializedProgram(
            f"{PROGRAMS}:train_registers", f"{PROGRAMS}:register_names", held, network.widths, 0
        )
    return _blocks(constants, network.widths)


@functools.lru_cache(maxsize=64)
def _blocks(constants, sizes):
    names, size = f"{PROGRAMS}:block_names", plan(constants).size
    return SpecializedProgram(f"{PROGRAMS}:train_blocks", names, constants, sizes, size)


def lanes_for(rows):
    """Return the lanes of a vector with a number of each row of a batch."""
    return max(4, 1 << (rows - 1).bit_length())


def fits_registers(sizes, rows, itemsize):
    """Return whether a network's parameters stay in registers for batches of `rows` rows."""
    parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))
    vectors = parameters * max(1, lanes_for(rows) * itemsize // host().vector_bytes)
    most = MOST_VECTORS if host().accumulators >= 16 else MOST_VECTORS // 2
    return rows <= MOST_ROWS and vectors <= most


# --- several networks: a lane of a vector each ------------------------------------------------------

LANE_PROGRAMS = "fastmlp.kernels.lanes.networks"

MOST_UNROLLED = 600
"""Rows of a step times parameters of an unrolled program at most."""


def lane_program(network, optimizer, dtype, rows=0, stays=False):
    """Return the `train_chunk` of such networks in lanes, or None; rows : of every step, 0 where they differ."""
    if not has_one_step(optimizer) or optimizer.rule.sparse_updates:
        return None
    return _program(network, optimizer.rule, optimizer.clip_norm is not None, dtype, rows, stays)


@functools.lru_cache(maxsize=1024)
def _program(network, rule, clips_norm, dtype, rows, stays):
    """Return `lane_program` of all optimisers of a rule, whatever their numbers."""
    if network.heads or network.blocks or not is_small(network):
        return None
    if not all(has_stage(op, network) for op in network.operations):
        return None
    is_unrolled = 0 < rows <= LOSS_ROWS and rows * parameter_count(network) <= MOST_UNROLLED
    constants = _constants(
        network, rule, dtype, lanes=lanes_of(dtype), rows=rows if is_unrolled else 0, stays=stays,
        convention=network.convention, clips_norm=clips_norm,
    )  # fmt: skip
    # Probabilities are data of a lane: networks that differ in them share the program.
    operations = tuple(op._replace(dropout=float(op.dropout > 0)) for op in constants.operations)
    constants = constants._replace(operations=operations)
    size = layout_of(constants).size * constants.lanes
    return SpecializedProgram(
        f"{LANE_PROGRAMS}:train_lanes", f"{LANE_PROGRAMS}:names", constants, network.widths, size
    )
