"""`Differentiable`: the methods of `Model` that differentiate it.

Modules that the package's top registers compute them, as they write formats.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike, NDArray

from fastmlp.trained import format_of

INPUTS, PARAMETERS = "input_derivatives", "parameter_derivatives"


class Differentiable:
    """Base of `Model`.

    Derivatives are those of `predict`, exact, and in the model's dtype: there is no dropout, and batch norms
    go by their running mean and variance. X is as for `predict`; its columns are those of all blocks,
    one block after another, and a column of codes has the derivative 0. Of a network with heads, outputs are
    those of all heads, one head after another. `logits=True` takes the outputs before the last activation.

    Rows are taken in blocks, so that memory is that of the result and a few MB.
    """

    # --- by the inputs ------------------------------------------------------------------------------

    def jacobian(self, X: Any, *, logits: bool = False) -> NDArray[Any]:
        """Return the derivatives of all outputs by all inputs, (rows, n_out, columns)."""
        found: NDArray[Any] = format_of(INPUTS).jacobian(self, X, logits)
        return found

    def input_gradient(self, X: Any, output: Any = None, *, logits: bool = False, dense: bool = False) -> Any:
        """Return the derivatives of an output by all inputs, (rows, columns).

        Parameters
        ----------
        X : as for `predict`
        output : int, a head's name, or a pair of a head's name and an int
            None where there is one output only.
        logits : whether of the output before the last activation
        dense : whether to return all derivatives where X is sparse
            Else those at the entries of X that are not 0, as a CSR matrix.

        Raises
        ------
        ValueError, TypeError
            In one line, for another X or output.
        """
        return format_of(INPUTS).input_gradient(self, X, output, logits, dense)

    def hessian(self, X: Any, output: Any = None, *, logits: bool = False) -> NDArray[Any]:
        """Return the second derivatives of an output, (rows, columns, columns); output as above."""
        found: NDArray[Any] = format_of(INPUTS).hessian(self, X, output, logits)
        return found

    def jvp(self, X: Any, V: ArrayLike, *, logits: bool = False) -> NDArray[Any]:
        """Return Jacobian-vector products with rows of V (rows, columns): (rows, n_out)."""
        found: NDArray[Any] = format_of(INPUTS).jvp(self, X, V, logits)
        return found

    def vjp(self, X: Any, U: ArrayLike, *, logits: bool = False) -> NDArray[Any]:
        """Return vector-Jacobian products with rows of U (rows, n_out): (rows, columns)."""
        found: NDArray[Any] = format_of(INPUTS).vjp(self, X, U, logits)
        return found

    def hvp(self, X: Any, V: ArrayLike, output: Any = None, *, logits: bool = False) -> NDArray[Any]:
        """Return Hessian-vector products of an output with rows of V: (rows, columns)."""
        found: NDArray[Any] = format_of(INPUTS).hvp(self, X, V, output, logits)
        return found

    def hidden(self, X: Any, layer: int | str) -> NDArray[Any]:
        """Return a layer's units after the activation, (rows, units); members side by side.

        layer : its name, as in `layers` or in `Dense(8, name="code")`, or its number from 0; -1 is the last
        """
        found: NDArray[Any] = format_of(INPUTS).hidden(self, X, layer)
        return found

    def attribute(
        self,
        X: Any,
        baseline: ArrayLike | None = None,
        *,
        output: Any = None,
        method: str = "integrated",
        steps: int = 50,
        seed: int | None = 0,
        logits: bool = False,
    ) -> Any:
        """Return attributions: the share of each column in an output's change from a baseline.

        The values of a row sum to the change of the output, within the `error` that comes with them.

        Parameters
        ----------
        X : as for `predict`, of numbers
        baseline : (columns,) or (rows, columns) array, optional
            Where the lines begin, zeros if None. With "expected" a sample (any, columns) of the data.
        output : as of `input_gradient`
        method : "integrated" or "expected"
            Integrated gradients, along one line by Gauss-Legendre quadrature; or expected gradients, the mean
            over lines from baselines that are drawn, one for each step.
        steps : int, gradients for each row
        seed : int, of the draws
        logits : whether of the output before the last activation

        Returns
        -------
        Attribution
            `values` (rows, columns), `change` (rows,), `error`, and `plot(row, names, ax)`.

        Raises
        ------
        ValueError, TypeError
            In one line, for other shapes, or inputs that are codes.
        """
        given = X, baseline, output, method, steps, seed, logits
        return format_of("attribution").attribute(self, *given)

    # --- by the parameters --------------------------------------------------------------------------

    def parameter_gradients(self, X: Any, y: Any) -> NDArray[Any]:
        """Return the gradient of each row's loss by all parameters, (rows, P).

        The columns are in the order of `parameters`, whose names are `parameter_names`. Penalties do not
        count. The mean over rows is the gradient of the loss where all rows and all entries count alike.
        """
        found: NDArray[Any] = format_of(PARAMETERS).parameter_gradients(self, X, y)
        return found

    def gradient_norms(self, X: Any, y: Any) -> NDArray[Any]:
        """Return the Euclidean norms (rows,) of the rows of `parameter_gradients`.

        A row with a large norm moves the parameters most: it may be mislabelled, or worth labelling.
        """
        found: NDArray[Any] = format_of(PARAMETERS).gradient_norms(self, X, y)
        return found

    @property
    def parameter_names(self) -> list[str]:
        """Names of all parameters in order, as "dense1.weights[2, 0]": layer, array, place."""
        names: list[str] = format_of(PARAMETERS).parameter_names(self)
        return names
