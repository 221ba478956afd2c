"""Steps of all rows: L-BFGS, and Levenberg and Marquardt's damped equations.

A text for compiled programs (`whole_templates`) and for NumPy (`fastmlp.second_order`): functions of a call,
with the operations on vectors and the passes over rows bound later. All is in float64.

Nocedal and Wright, "Numerical optimization" (2006), chapters 3 and 7, has the two-loop recursion (algorithm
7.4) and the strong Wolfe conditions (algorithms 3.5 and 3.6). The damped equations are (J'J + damping I) step
= -J'r, with the derivatives J of residuals r by the parameters (Levenberg 1944; Marquardt 1963; Hagan and
Menhaj, "Training feedforward networks with the Marquardt algorithm", 1994).
"""

# mypy: ignore-errors

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastmlp.kernels.codegen.views import part_of
    from fastmlp.kernels.program.whole_templates import (
        add_products,
        combined,
        determined_by,
        form_equations,
        gradient_at,
        inner,
        loss_at,
        round_numbers,
        round_single,
        scaled,
        solve_damped,
        weighed_square,
    )

DECREASE, CURVATURE = 1e-4, 0.9
"""Constants of the Wolfe conditions, c1 and c2, for steps of quasi-Newton methods."""

LONGER, INSIDE = 4.0, 0.1
"""The factor of a step that is too short; the least distance of a step from two others, as a fraction."""

EPSILON = 2.0**-52
"""A pair is kept where the curvature along its step is more than this fraction of the slope."""

LITTLE, FIRST_FRACTION = 0.1, 0.001
"""The fraction of the objective gained by a step near a minimum; the first precision of the prior, as a
fraction of the weights' own precision."""

GOAL, FLAT, NO_LOWER, DAMPED = 1, 2, 3, 4
"""Why steps end: `whole.reason` of a call."""


def with_loss_times(call, objective, factor):
    """Return an objective with the loss multiplied by a factor, and the penalties as they are."""
    if factor == 1.0:
        return objective
    penalties = weighed_square(call.curved, call.parameters) / 2
    return (objective - penalties) * factor + penalties


def keep_reported(call, s):
    """Write the objective before step s, as the history has it; return it."""
    call.curves[0, s] = with_loss_times(call, call.whole.loss, 1.0 / call.whole.divisor)
    return call.curves[0, s]


def reason_to_stop(state, reported, norm):
    """Return GOAL or FLAT where steps end at a loss and a norm of its gradient; else 0."""
    if reported <= state.goal:
        return GOAL
    return FLAT if norm < state.min_gradient else 0


# --- L-BFGS -----------------------------------------------------------------------------------------------


def lbfgs(call, worker, workers):
    """Take the call's iterations of L-BFGS, fewer where the steps end; write the objectives and norms."""
    state, down = call.whole, call.down
    if state.known == 0:
        state.loss, state.known = with_loss_times(call, gradient_at(call), state.divisor), 1
        scaled(1.0, call.gradients, down)
    for s in range(call.iterations):
        norm = math.sqrt(inner(down, down))
        state.reason = reason_to_stop(state, keep_reported(call, s), norm)
        call.curves[1, s] = norm
        state.taken = s + 1
        if state.reason != 0 or not math.isfinite(state.loss):
            return
        moved = descend_once(call)
        if not moved and state.pairs > 0:
            state.pairs = 0
            moved = descend_once(call)
        if not moved:
            state.reason = NO_LOWER
            return


def descend_once(call):
    """Move along the direction of the pairs, and keep the step's pair; return whether the loss is lower."""
    state, x, down, point = call.whole, call.parameters, call.down, call.point
    set_direction(call)
    slope = inner(down, call.along)
    if not slope < 0.0:
        return False
    scaled(1.0, x, point)
    first = 1.0 if state.pairs > 0 else min(1.0, 1.0 / math.sqrt(-slope))
    step, loss, sound = strong_wolfe(call, state.loss, slope, first)
    if not loss < state.loss:
        scaled(1.0, point, x)
        return False
    state.loss = loss
    s, y = pair_of(call, state.pairs)
    combined(x, -1.0, point, s)
    combined(call.gradients, -1.0, down, y)
    scaled(1.0, call.gradients, down)
    if state.single != 0:
        round_single(s, False)
        round_single(y, False)
    if sound and inner(s, y) > EPSILON * -slope * step:
        state.pairs += 1
    else:  # the curvature along the step may be negative
        state.pairs = 0
    return True


def pair_of(call, number):
    """Return pair `number`: a step, and the difference of the gradients."""
    pairs, size, history = call.moments, call.size, call.whole.history
    index = number % history
    return part_of(pairs, 0, size, index), part_of(pairs, 0, size, history + index)


def set_direction(call):
    """Write minus the product of the pairs' inverse Hessian with the gradient."""
    state, along = call.whole, call.along
    factors, curvatures = part_of(call.room, 0, state.history, 0), part_of(call.room, 0, state.history, 1)
    scaled(-1.0, call.down, along)
    first, scale = max(0, state.pairs - state.history), 1.0
    for number in range(state.pairs - 1, first - 1, -1):
        index, (s, y) = number % state.history, pair_of(call, number)
        curvatures[index] = inner(s, y)
        if number == state.pairs - 1:
            scale = curvatures[index] / inner(y, y)  # equation 7.20
        factors[index] = inner(s, along) / curvatures[index]
        combined(along, -factors[index], y, along)
    scaled(scale, along, along)
    for number in range(first, state.pairs):
        index, (s, y) = number % state.history, pair_of(call, number)
        combined(along, factors[index] - inner(y, along) / curvatures[index], s, along)


def try_step(call, step):
    """Move to a step along the direction; return the step with the loss and the slope there."""
    combined(call.point, step, call.along, call.parameters)
    if call.whole.single != 0:
        round_single(call.parameters, True)
    loss = with_loss_times(call, gradient_at(call), call.whole.divisor)
    return step, loss, inner(call.gradients, call.along)


def strong_wolfe(call, loss, slope, step):
    """Return a step that satisfies the strong Wolfe conditions, its loss, and whether there is one.

    Without one the step is the best of those that lower the loss enough, 0 if there is none. The last trial
    is the step that is returned, unless that is 0.

    loss, slope : at step 0, the slope below 0; step : the first to try
    """
    low, bracketed = (0.0, loss, slope), False
    high = tried = low
    for _ in range(call.whole.max_evaluations):
        tried = try_step(call, step)
        enough = tried[1] <= loss + DECREASE * step * slope  # False of NaN
        if not enough or (tried[1] >= low[1] and low[0] > 0.0):
            high, bracketed = tried, True
        else:
            if abs(tried[2]) <= -CURVATURE * slope:
                return step, tried[1], True
            if tried[2] * (high[0] - low[0] if bracketed else 1.0) >= 0.0:
                high, bracketed = low, True
            low = tried
        step = between(low, high) if bracketed else LONGER * step
        if step == low[0] or (bracketed and step == high[0]):  # no number is between them
            break
    if tried[0] != low[0] and low[0] > 0.0:
        try_step(call, low[0])
    return low[0], low[1], False


def between(low, high):
    """Return a step between two: the minimum of the cubic through both (equation 3.59), or the middle."""
    length, fraction = high[0] - low[0], 0.5
    if math.isfinite(high[1]) and math.isfinite(high[2]):
        d1 = low[2] + high[2] - 3 * (high[1] - low[1]) / length
        square = d1 * d1 - low[2] * high[2]
        if square >= 0.0:
            d2 = math.copysign(math.sqrt(square), length)
            below = high[2] - low[2] + 2 * d2
            if below != 0.0:
                fraction = 1 - (high[2] + d2 - d1) / below
    return low[0] + length * min(max(fraction, INSIDE), 1 - INSIDE)


# --- Levenberg and Marquardt ------------------------------------------------------------------------------


def levenberg_marquardt(call, worker, workers):
    """Take the call's iterations of damped equations, fewer where the steps end; write their curves."""
    state, x, down, precisions = call.whole, call.parameters, call.down, call.precisions
    if state.known == 0:
        state.loss, state.known = with_loss_times(call, loss_at(call), state.divisor), 1
    for s in range(call.iterations):
        reported = keep_reported(call, s)
        state.taken = s + 1
        if not math.isfinite(state.loss):
            return
        form_equations(call)
        if state.evidence != 0:
            call.curves[5, s] = settle_evidence(call)
            call.curves[3, s], call.curves[4, s] = state.prior_precision, state.noise
            scaled(state.prior_precision * state.noise * state.noise, call.trained, precisions)
        else:
            scaled(state.scale, call.curved, precisions)
        add_products(precisions, x, down)
        norm = math.sqrt(inner(down, down)) / state.scale
        state.reason = reason_to_stop(state, reported, norm)
        if state.damping == 0.0:
            state.damping = state.first_damping
        if state.reason == 0:
            take_damped_step(call)
        call.curves[1, s], call.curves[2, s] = norm, state.damping
        if state.reason != 0:
            return
        if state.single != 0:
            round_numbers(state)


def merit(call):
    """Return the objective in the units of the equations, with the prior of the evidence."""
    state, objective = call.whole, call.whole.scale * call.whole.loss
    if state.evidence != 0:
        objective += weighed_square(call.precisions, call.parameters) / 2
    return objective


def take_damped_step(call):
    """Raise the damping until a step lowers the objective, and take that step."""
    state, x, step, point = call.whole, call.parameters, call.along, call.point
    damping, growth, before, loss = state.damping, 2.0, merit(call), state.loss
    scaled(1.0, x, point)
    while damping <= state.max_damping:
        if solve_damped(call, damping):
            combined(point, 1.0, step, x)
            if state.single != 0:
                round_single(x, True)
            state.loss = with_loss_times(call, loss_at(call), state.divisor)
            after = merit(call)
            if after < before:
                factor = state.damping_decrease
                if state.nielsen != 0:
                    foreseen = (damping * inner(step, step) - inner(step, call.down)) / 2
                    factor = max(1 / 3, 1 - (2 * (before - after) / foreseen - 1) ** 3)
                state.gain = 1 - after / before
                state.damping = max(damping * factor, EPSILON * state.total_diagonal / call.size)
                return
        damping *= growth if state.nielsen != 0 else state.damping_increase
        growth *= 2
    scaled(1.0, point, x)
    state.loss, state.damping, state.reason = loss, damping, DAMPED
    state.known = 0  # the passes of the last step tried are not those of this point


def settle_evidence(call):
    """Set the precisions to those of the greatest evidence; return the effective parameters.

    MacKay's fixed point, "Bayesian interpolation" (1992), with the matrix of this step. The precision of the
    weights stays until a step gains little with it: in the first steps, when outputs are far from targets
    whatever the weights, the precision would grow until all weights are 0.
    """
    state, trained = call.whole, call.trained
    square = max(weighed_square(trained, call.parameters), EPSILON)
    count = weighed_square(trained, trained)
    if state.prior_precision == 0.0:
        state.prior_precision, state.noise = FIRST_FRACTION * count / square, 1.0
        if state.has_noise != 0:
            state.noise = math.sqrt(state.square / state.counted)
    determined = max(determined_by(call, state.prior_precision * state.noise * state.noise, count), EPSILON)
    if 0.0 < state.gain < LITTLE:
        state.prior_precision = determined / square
    state.noise = 1.0
    if state.has_noise != 0:
        variance = state.square / max(state.counted - determined, 1.0)
        state.noise = math.sqrt(max(variance, EPSILON * EPSILON))
    return determined
