"""The program of as many networks as a vector has lanes: rows are gathered lane by lane for `LaneStep`.

All arrays are lane by lane, see `fastmlp.kernels.lanes.training`; only rows of data stay in each network's arrays.
"""

from typing import TYPE_CHECKING

from llvmlite import ir
from numba import types

from fastmlp.kernels.codegen.row_expressions import Running
from fastmlp.kernels.codegen.symbols import FLOATS, INT32, Symbol
from fastmlp.kernels.codegen.vectors import Vectors, counted, smaller, transposed
from fastmlp.kernels.codes import RULE_CODES
from fastmlp.kernels.elementwise.by_vectors import scramble
from fastmlp.kernels.elementwise.losses import counts
from fastmlp.kernels.program.step_numbers import loss_factor, penalty_factor
from fastmlp.kernels.small.lane_numbers import LaneNumbers, LaneRegisters, Slots
from fastmlp.kernels.small.lane_step import LaneStep, clip, penalties
from fastmlp.kernels.small.layouts import (
    BLOCK_ROWS,
    CLIP_NORM,
    KEY,
    L2,
    LOSS_PARAMETERS,
    ROWS_INPUTS,
    ROWS_TARGETS,
    ROWS_WEIGHTS,
    STEPS,
    STRIDES,
)
from fastmlp.kernels.small.programs import disposable
from fastmlp.model.rules import ROOM_FOR_CONSTANTS

if TYPE_CHECKING:

    def run(*arguments):
        """Take the steps of a chunk: the function of `names`."""


def train_lanes(call, worker, workers):
    """`train_chunk` of as many networks as a vector has lanes."""
    objective = call.objective
    run(
        call.parameters, call.moments, call.memory, call.order, call.starts, call.stops, call.totals, call.rates,
        call.losses, call.lane_addresses, call.lane_numbers,
        (call.heads[0].divisor, objective.value_divisor, objective.shared_penalty),
    )  # fmt: skip


class GatheredRows:
    """Rows of all networks, gathered into a workspace.

    bases : by the kind of data the address of each network's; order : lane by lane
    room : rows that are gathered together
    """

    def __init__(self, step, memory, bases, order, room):
        self.step, self.bases, self.order = step, bases, order
        n_in, n_out = step.constants.n_in, step.constants.n_out
        first = step.layout.size
        self.inputs, self.targets, self.scales = (
            step.parameters.part(memory, first + at) for at in (0, room * n_in, room * (n_in + n_out))
        )

    def gather(self, first, rows, factor):
        """Copy rows of each lane's data; factor : of each lane, float64."""
        step, v, builder, data = self.step, self.step.v, self.step.builder, FLOATS[self.step.v.dtype]
        n_in, n_out = step.constants.n_in, step.constants.n_out
        for r in step.each(rows):
            row_of = [self.order[(first + r) * v.lanes + lane] for lane in range(v.lanes)]
            self._copy(ROWS_INPUTS, row_of, self.inputs.at(r * n_in), n_in)
            self._copy(ROWS_TARGETS, row_of, self.targets.at(r * n_out), n_out)
            weights = ir.Constant(v.type, ir.Undefined)
            for lane, (pointer, row) in enumerate(zip(self.bases[ROWS_WEIGHTS], row_of, strict=True)):
                number = builder.load(builder.gep(pointer, [row.value], source_etype=data), typ=data)
                weights = builder.insert_element(weights, number, INT32(lane))
            self.scales[r] = counts(factor, Symbol(builder, weights))

    def _copy(self, kind, row_of, target, width):
        """Copy a row of each network, of `width` numbers."""
        v, rest = self.step.v, width % self.step.v.lanes
        addresses = [
            v.shift(pointer, row * (width * v.itemsize))
            for pointer, row in zip(self.bases[kind], row_of, strict=True)
        ]

        def block(j, mask):
            vectors = transposed(v, [v.shift(address, j * v.itemsize) for address in addresses], mask)
            for i, number in enumerate(vectors if mask is None else vectors[:rest]):
                target[j + i] = Symbol(v.builder, number)

        for j in self.step.each(width - rest, v.lanes):
            block(j, None)
        v.edge(rest, lambda mask: block(width - rest, mask))

    def take(self, at):
        """Point the step to the gathered rows from `at` on."""
        constants = self.step.constants
        self.step.inputs = self.inputs.at(at * constants.n_in)
        self.step.targets, self.step.scales = self.targets.at(at * constants.n_out), self.scales.at(at)


def names(constants):
    """Return the global names of `train_lanes`: the steps of a chunk, a network in each lane."""

    @disposable
    def run(
        parameters, moments, memory, order, starts, stops, totals, rates, losses, addresses, numbers, objective
    ):  # fmt: skip
        divisor, value_divisor, shares_penalty = objective
        lanes, rule, count = constants.lanes, RULE_CODES.of_key(constants.rule), constants.parameters
        builder = parameters.builder
        v = Vectors(builder, parameters.dtype, lanes * parameters.itemsize)
        wide = Vectors(builder, types.float64, lanes * 8)
        totals, rates, losses, numbers = (
            LaneNumbers(wide, array.data) for array in (totals, rates, losses, numbers)
        )
        bases = [
            [
                builder.inttoptr(addresses[kind * lanes + lane].value, ir.PointerType())
                for lane in range(lanes)
            ]
            for kind in (ROWS_INPUTS, ROWS_TARGETS, ROWS_WEIGHTS)
        ]
        state = [
            LaneNumbers(v, parameters.data),
            *(LaneNumbers(v, v.shift(moments.data, k * count * v.bytes)) for k in range(rule.moments)),
        ]
        held = state
        if constants.rows:
            # Where all is unrolled, slots become registers for the whole chunk.
            held = [LaneRegisters(v, Slots()) for _ in state]
            for slots, source in zip(held, state, strict=True):
                for p in range(count):
                    slots[p] = source[p]
        of_all = constants.rows or stops[0] - starts[0]
        step = LaneStep(v, constants, held[0], memory.data, numbers)
        data = GatheredRows(step, memory.data, bases, order, of_all if constants.stays else BLOCK_ROWS)
        of_rule = [numbers[i] for i in range(ROOM_FOR_CONSTANTS)]
        l2_of_lane, of_loss = numbers[L2], numbers.at(LOSS_PARAMETERS)
        whole = lambda symbol: Symbol(builder, builder.fptoui(symbol.value, ir.VectorType(INT32, lanes)))
        for number, op in enumerate(constants.operations):
            if op.dropout:
                row = constants.row_of_dropout(number)
                step.chances[number] = whole(numbers[row]), numbers[row + 1]
        by_totals, by_rates, by_losses = (addresses[3 * lanes + i] for i in range(STRIDES))
        factor_of = lambda s: loss_factor.formula(divisor, totals[s * by_totals])
        if constants.stays:
            # Every step visits the same rows: they are gathered once a chunk.
            data.gather(starts[0], of_all, factor_of(0))
        with counted(builder, starts.units) as s:
            start, stop = starts[s], stops[s]
            visited = constants.rows or stop - start
            before = numbers[STEPS] + Symbol(builder, builder.sitofp(s.value, FLOATS[types.float64]))
            step.word, value = scramble(whole(numbers[KEY]) ^ whole(before)), Running(step.none)
            step.clear()
            for at in step.each(visited, BLOCK_ROWS):
                rows = smaller(visited - at, BLOCK_ROWS)
                if not constants.stays:
                    data.gather(start + at, rows, factor_of(s))
                data.take(at if constants.stays else 0)
                step.first = at
                step.forward(rows)
                value.value = value.value + step.loss(rows, of_loss)
                step.backward(rows)
            objective_value, l2 = value.value / value_divisor, None
            if constants.l2:
                l2 = l2_of_lane * penalty_factor.formula(shares_penalty, totals[s * by_totals])
                objective_value = objective_value + penalties(step, l2)
            losses[s * by_losses] = objective_value
            if constants.clips_norm:
                clip(step, numbers[CLIP_NORM], l2)
                # The norm is that of the whole gradient, so that `clip` has added the penalty already.
                l2 = None
            rate, bias_rate = rates[s * by_rates], rates[s * by_rates + 1]
            for op in step.operations:
                step.update(op, held[1:], rate, bias_rate, of_rule, before + 1.0, l2)
        if constants.rows:
            for slots, target in zip(held, state, strict=True):
                for p in range(count):
                    target[p] = slots[p]

    return {"run": run}
