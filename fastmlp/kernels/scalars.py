"""What jitted loops call for each element: the formulas, and two words to LLVM about the loop around them."""

# mypy: ignore-errors

from numba import types
from numba.extending import intrinsic

from fastmlp.kernels import formulas, residuals, symbols
from fastmlp.kernels.symbols import jittable

fma, sqrt, at_least = jittable(symbols.fma), jittable(symbols.sqrt), jittable(symbols.at_least)
multiplied_sqrt = jittable(formulas.multiplied_sqrt)
exp, log, exp_nonpositive = jittable(formulas.exp), jittable(formulas.log), jittable(formulas.exp_nonpositive)
sigmoid, tanh, softplus = jittable(formulas.sigmoid), jittable(formulas.tanh), jittable(formulas.softplus)
elu, elu_derivative = jittable(formulas.elu), jittable(formulas.elu_derivative)
silu, silu_derivative = jittable(formulas.silu), jittable(formulas.silu_derivative)
gelu, gelu_derivative = jittable(formulas.gelu), jittable(formulas.gelu_derivative)
within, likelihood_bounds = jittable(residuals.within), jittable(residuals.likelihood_bounds)
element_loss = jittable(residuals.element_loss)


@intrinsic
def accumulate(typing_context, total, term):
    """Return total + term, where LLVM may add the terms of a loop in any order: it makes vectors of them."""

    def emit(context, builder, signature, values):
        return builder.fadd(*values, flags=("reassoc", "nsz"))

    if isinstance(total, types.Float) and total == term:
        return total(total, term), emit


@intrinsic
def wide_vectors(typing_context):
    """Call once in a function whose loops should use 512-bit vectors where the machine has them.

    LLVM tunes most AVX-512 processors to 256 bits; this sets the attribute that clang's -mprefer-vector-width=512
    sets. llvmlite only knows attributes without a value, hence the call past its check. Numba optimises, and vectorises,
    every jitted function by itself before it is inlined: the call must stand in the function that has the loop.
    """

    def emit(context, builder, signature, values):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), emit
