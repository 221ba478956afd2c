"""`Portable`: the methods of `Model` that export it to other programs' formats, and import it from them.

What they call is a format's module, which the package's top registers: here is what each promises.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

from numpy.typing import ArrayLike, NDArray

from fastmlp.model.loss import Loss
from fastmlp.model.network import Network
from fastmlp.trained import format_of


class Parts(NamedTuple):
    """Parts of a model: a network, and arrays for each operation with parameters.

    arrays : of a dense one weights (n_in, n_out) floating and bias (n_out,) floating; of others those of
        `Model.layers`, each (units,) or (1,) floating; a gain is 1 and a shift 0 where they are missing
    """

    network: Network
    arrays: list[tuple[NDArray[Any], ...]]


class Portable:
    """Base of `Model`.

    docs/exchange.md says within which bound the predictions of each are the model's. All take inputs as the
    model does: a network's input_scale is folded into the weights of its first layer, or is a layer. Biases
    that are not trained are written as zeros.
    """

    network: Network
    parameters: NDArray[Any]

    @classmethod
    def assembled(cls, parts: Parts, backend: str) -> Self:
        """Return a model of a network and parameters."""
        raise NotImplementedError

    # --- out ----------------------------------------------------------------------------------------

    def to_onnx(self, path: str | Path) -> None:
        """Write an ONNX file: input "X" (rows, n_in), output "output" (rows, n_out), in the model's dtype.

        Each block of inputs is an input by its name, or "X0", "X1", .. without names, categories of int64;
        each head is an output by its name.

        Needs the extra `onnx`. An activation or a layer that ONNX has no operator for is
        written by its formula, a user's own too; in float64 also those that onnxruntime has none for.
        """
        format_of("onnx_graph").to_onnx(self.network, self.parameters, path)

    def to_c(
        self, path: str | Path, *, name: str | None = None, fixed_point: ArrayLike | None = None
    ) -> None:
        """Write a C99 header with `void NAME_predict(const real *x, real *out)`, for a row.

        Each block of inputs is an argument: x_NAME, or x0, x1, .. without names, categories of int32_t. So is
        each head: out_NAME.

        It allocates nothing and needs only math.h; real is float or double, the model's dtype.

        Parameters
        ----------
        path : of the file
        name : what its functions begin with; None for the file's name
        fixed_point : (rows, n_in) array, optional
            Rows like those to be predicted. Layers then compute in integers, 16 bits for weights and values,
            scaled by powers of two that suit these rows, and the header says how far its results may be off;
            `void NAME_logits(const int16_t *x, int32_t *z)` is without floating-point numbers. For chains of
            dense layers.

        Raises
        ------
        ValueError
            If the name is no identifier, rows are not as for `predict`, or no integers hold what they
            lead to; if `fixed_point` is given for a network that is no chain of dense layers.
        """
        format_of("c_header").to_c(self.network, self.parameters, path, name, fixed_point)

    def to_numpy_source(self) -> str:
        """Return a Python module's text with `predict(X)`, which needs NumPy alone.

        And SciPy where an activation is made of erf or expit, as gelu is. X is an array, or a list or a dict
        of the blocks of inputs; with heads `predict` returns a dict of theirs.
        """
        source: str = format_of("python_source").to_numpy_source(self.network, self.parameters)
        return source

    def to_torch(self) -> Any:
        """Return a `torch.nn.Sequential` with a copy of the parameters, in eval mode.

        Where `Add`, `Concatenate` or `Residual` read an earlier layer it is another `torch.nn.Module`, as it
        is with blocks of inputs, each of which is an argument, and with heads, for which it returns a dict.
        Needs the extra `torch`.
        """
        return format_of("torch_module").to_torch(self.network, self.parameters)

    def to_sklearn(self, classes: ArrayLike | None = None) -> Any:
        """Return a fitted MLPClassifier (softmax, sigmoid) or MLPRegressor (identity, exp) of scikit-learn's.

        Parameters
        ----------
        classes : (k,) labels in the order of the outputs, ascending; None for whole numbers from 0

        Raises
        ------
        ValueError
            If scikit-learn has no counterpart: it has identity, relu, logistic and tanh, one for all layers,
            which are dense.
        """
        return format_of("sklearn_estimator").to_sklearn(self.network, self.parameters, classes)

    def to_keras_weights(self) -> list[NDArray[Any]]:
        """Return copies of all layers' arrays, in the order that `set_weights` of a Keras model takes.

        For a Keras model of the same layers in the same order; a `Dense` without biases has one array.
        docs/exchange.md says what layers and activations are called there.

        Raises
        ------
        ValueError
            If the network has blocks of inputs, heads, or a layer with parameters that Keras has not.
        """
        weights: list[NDArray[Any]] = format_of("keras_weights").to_keras_weights(
            self.network, self.parameters
        )
        return weights

    @property
    def jit_predict(self) -> Any:
        """A function jitted by Numba, (rows, n_in) to (rows, n_out), which compiled code of yours may call.

        Each block of inputs is an argument, and with heads it returns a tuple of theirs, in their order.
        It has the parameters as they are now, and is made anew at every access: keep it in a variable.
        """
        return format_of("python_source").jit_predict(self.network, self.parameters)

    # --- in -----------------------------------------------------------------------------------------

    @classmethod
    def from_onnx(
        cls,
        path: str | Path,
        *,
        output: str | None = None,
        loss: str | Loss | None = None,
        backend: str = "auto",
    ) -> Self:
        """Return the model of an ONNX file that holds layers and activations, one after another.

        Or of a file that `to_onnx` wrote of a network with blocks of inputs or heads, unchanged.

        Needs the extra `onnx`. Layers are Gemm, or MatMul and Add; LayerNormalization,
        BatchNormalization and PRelu; the nodes that `to_onnx` writes for `RMSNorm`, `Scale` and `Swish`; Add
        and Concat of a value and an earlier layer's. What stands between two of them, element by element,
        becomes one of fastmlp's activations, or an `Activation` of that formula. Every value is a matrix
        (rows, units) of the output's dtype, float32 or float64.

        Parameters
        ----------
        path : of the file
        output : the last activation, where the file ends in logits; None for what is there
        loss : for a training that goes on; None for the one that goes with the output
        backend : as for `fit`

        Raises
        ------
        ValueError
            In one line, for a file that is not valid, a node that is none of these, and parameters that are
            not finite.
        """
        return cls.assembled(format_of("onnx_reader").from_onnx(path, output, loss), backend)

    @classmethod
    def from_torch(
        cls,
        module: Any,
        *,
        output: str | None = None,
        loss: str | Loss | None = None,
        backend: str = "auto",
    ) -> Self:
        """Return the model of a `torch.nn.Sequential`, or of a module that `to_torch` gave; as `from_onnx`.

        The Sequential may hold Linear, LayerNorm, RMSNorm, BatchNorm1d, PReLU, Dropout, Flatten and
        activations. The parameters are copied, in float64 if one of them is, else in float32; a Linear
        without a bias gets one of zeros.
        """
        return cls.assembled(format_of("torch_module").from_torch(module, output, loss), backend)

    @classmethod
    def from_sklearn(cls, estimator: Any, *, backend: str = "auto") -> Self:
        """Return the model of a fitted MLPClassifier or MLPRegressor of scikit-learn's.

        fastmlp's own have it as `model_`.

        Raises
        ------
        TypeError
            For another estimator.
        """
        return cls.assembled(format_of("sklearn_estimator").from_sklearn(estimator), backend)
