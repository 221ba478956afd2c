"""The stages of a small network's optimisers, each over a part of the padded vectors.

Separate because they know the optimisers' mathematics, where `fastmlp.kernels.stages` knows the network's.
A stage takes (work, penalty, rule, rate, correction1, correction2).
"""

# mypy: ignore-errors

from fastmlp.kernels.own import stage
from fastmlp.kernels.scalars import fma, multiplied_sqrt, sqrt, wide_vectors


def sgd(at, count, where, penalised):
    """The stage of plain SGD."""
    g_at = where.gradients + at

    @stage
    def update(work, penalty, rule, rate, correction1, correction2):
        wide_vectors()
        r, l2 = work.dtype.type(rate), work.dtype.type(penalty)
        for i in range(count):
            g = work[g_at + i]
            if penalised:
                g = fma(l2, work[at + i], g)
            work[at + i] = fma(-r, g, work[at + i])

    return update


def _momentum(nesterov):
    def momentum(at, count, where, penalised):
        """The stage of SGD with momentum."""
        g_at, v_at = where.gradients + at, where.first + at

        @stage
        def update(work, penalty, rule, rate, correction1, correction2):
            wide_vectors()
            real = work.dtype.type
            r, l2, mu = real(rate), real(penalty), real(rule.momentum)
            for i in range(count):
                g = work[g_at + i]
                if penalised:
                    g = fma(l2, work[at + i], g)
                v = fma(mu, work[v_at + i], g)
                work[v_at + i] = v
                work[at + i] -= r * (fma(mu, v, g) if nesterov else v)

        return update

    return momentum


def rmsprop(at, count, where, penalised):
    """The stage of RMSprop."""
    g_at, s_at, v_at = where.gradients + at, where.first + at, where.second + at

    @stage
    def update(work, penalty, rule, rate, correction1, correction2):
        wide_vectors()
        real = work.dtype.type
        r, l2, mu, epsilon = real(rate), real(penalty), real(rule.momentum), real(rule.epsilon)
        keep, take = real(rule.beta2), real(1.0 - rule.beta2)
        for i in range(count):
            g = work[g_at + i]
            if penalised:
                g = fma(l2, work[at + i], g)
            square = fma(keep, work[s_at + i], take * g * g)
            v = fma(mu, work[v_at + i], g / (multiplied_sqrt(square) + epsilon))
            work[s_at + i] = square
            work[v_at + i] = v
            work[at + i] -= r * v

    return update


def adam(at, count, where, penalised):
    """The stage of Adam and AdamW."""
    g_at, m_at, v_at = where.gradients + at, where.first + at, where.second + at

    @stage
    def update(work, penalty, rule, rate, correction1, correction2):
        wide_vectors()
        real = work.dtype.type
        l2 = real(penalty)
        keep1, take1 = real(rule.beta1), real(1.0 - rule.beta1)
        keep2, take2 = real(rule.beta2), real(1.0 - rule.beta2)
        shrink = real(1.0 - rate * rule.decay)
        r, unbias = real(rate / correction1), real(1.0 / sqrt(correction2))
        epsilon = real(rule.epsilon / sqrt(correction2) if rule.epsilon_hat else rule.epsilon)
        for i in range(count):
            p = work[at + i]
            g = work[g_at + i]
            if penalised:
                g = fma(l2, p, g)
            m = fma(keep1, work[m_at + i], take1 * g)
            v = fma(keep2, work[v_at + i], take2 * g * g)
            work[m_at + i] = m
            work[v_at + i] = v
            work[at + i] = shrink * p - r * m / fma(multiplied_sqrt(v), unbias, epsilon)

    return update


UPDATES = {
    "sgd": sgd,
    "momentum": _momentum(False),
    "nesterov": _momentum(True),
    "rmsprop": rmsprop,
    "adam": adam,
}
MOMENTS = {"sgd": 0, "momentum": 1, "nesterov": 1, "rmsprop": 2, "adam": 2}
