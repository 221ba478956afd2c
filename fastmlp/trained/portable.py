"""`Portable`: the methods of `Model` for other programs' formats, out and in.

Each method calls a format's module, registered by the package's top.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from numpy.typing import ArrayLike, NDArray

from fastmlp.model.loss import Loss
from fastmlp.model.network import Network
from fastmlp.trained import format_of

Parts = tuple[Network, list[tuple[NDArray[Any], ...]]]
"""Parts of a model: a network, and arrays for each operation with parameters.

A product has weights (n_in, n_out) floating and bias (n_out,) floating. Other operations have the arrays of
`Model.layers`, each (units,) or (1,) floating, with 1 for a missing gain and 0 for a shift.
"""


class Portable:
    """Base of `Model`.

    docs/exchange.md has the bounds of the predictions of each format. All formats take inputs as the model:
    input_scale is folded into the weights of the first layer, or is a layer. Untrained biases are zeros.
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

        Needs the extra `onnx`. Activations and layers without an operator are written by formula, also custom
        components, and in float64 operators unknown to onnxruntime.
        """
        format_of("onnx_graph").to_onnx(self.network, self.parameters, path)

    def to_c(
        self, path: str | Path, *, name: str | None = None, fixed_point: ArrayLike | None = None
    ) -> None:
        """Write a C99 header with `void NAME_predict(const real *x, real *out)`, for a row.

        Each block of inputs is an argument: x_NAME, or x0, x1, .. without names, categories of int32_t. Each
        head is an argument: out_NAME. The header allocates nothing and needs only math.h; real is float or
        double, the model's dtype.

        Parameters
        ----------
        path : of the file
        name : the prefix of functions; None for the file's name
        fixed_point : (rows, n_in) array, optional
            Rows like the rows to be predicted. Layers then compute in integers, 16 bits for weights and
            values, scaled by powers of two for these rows, and the header has a bound of the error; `void
            NAME_logits(const int16_t *x, int32_t *z)` has no floating-point numbers. For chains of dense
            layers.

        Raises
        ------
        ValueError
            For a name that is no identifier, rows unlike the rows of `predict`, values beyond integers; or
            `fixed_point` for a network other than a chain of dense layers.
        """
        format_of("c_header").to_c(self.network, self.parameters, path, name, fixed_point)

    def to_numpy_source(self) -> str:
        """Return a Python module's text with `predict(X)`, for NumPy alone.

        SciPy is needed for erf and expit, as in gelu. X is an array, or a list or a dict of the blocks of
        inputs; with heads `predict` returns a dict of the heads' outputs.
        """
        source: str = format_of("python_source").to_numpy_source(self.network, self.parameters)
        return source

    def to_torch(self) -> Any:
        """Return a `torch.nn.Sequential` with a copy of the parameters, in eval mode.

        With layers that read an earlier layer, as `Add`, `Concatenate` and `Residual`, the result is another
        `torch.nn.Module`; also with blocks of inputs, an argument each, and with heads, a dict of outputs.
        Needs the extra `torch`.
        """
        return format_of("torch_module").to_torch(self.network, self.parameters)

    def to_sklearn(self, classes: ArrayLike | None = None) -> Any:
        """Return scikit-learn's fitted MLPClassifier (softmax, sigmoid) or MLPRegressor (identity, exp).

        Parameters
        ----------
        classes : (k,) labels in the order of the outputs, ascending; None for whole numbers from 0

        Raises
        ------
        ValueError
            Without a counterpart: scikit-learn has dense layers, all with identity, relu, logistic or tanh.
        """
        return format_of("sklearn_estimator").to_sklearn(self.network, self.parameters, classes)

    def to_keras_weights(self) -> list[NDArray[Any]]:
        """Return copies of all layers' arrays, for `set_weights` of a Keras model.

        The Keras model has the same layers in the same order; a `Dense` without biases has a single array.
        docs/exchange.md has the names of layers and activations in Keras.

        Raises
        ------
        ValueError
            For blocks of inputs, heads, or a layer with parameters unknown to Keras.
        """
        weights: list[NDArray[Any]] = format_of("keras_weights").to_keras_weights(
            self.network, self.parameters
        )
        return weights

    @property
    def jit_predict(self) -> Any:
        """A function jitted by Numba, (rows, n_in) to (rows, n_out), for calls from compiled code.

        Each block of inputs is an argument, and with heads the result is a tuple, in the order of heads. The
        function has a copy of the parameters, and every access makes a new function: keep it in a variable.
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
        """Return the model of an ONNX file: a chain of layers and activations.

        Or of an unchanged file of `to_onnx`, for a network with blocks of inputs or heads. Needs the extra
        `onnx`. Layers are Gemm, or MatMul and Add; LayerNormalization, BatchNormalization and PRelu; nodes of
        `to_onnx` for `RMSNorm`, `Scale`, `Swish`; Add and Concat with an earlier layer's value. Other nodes
        between two layers, element by element, become a built-in activation, or an `Activation` of the
        formula. Every value is a matrix (rows, units) of the output's dtype, float32 or float64.

        Parameters
        ----------
        path : of the file
        output : the last activation, for a file that ends in logits; None for the file's last activation
        loss : for further training; None for the output's default loss
        backend : as for `fit`

        Raises
        ------
        ValueError
            In a line, for an invalid file, any other node, and parameters that are not finite.
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
        """Return the model of a `torch.nn.Sequential`, or of a module of `to_torch`; as `from_onnx`.

        The Sequential may hold Linear, LayerNorm, RMSNorm, BatchNorm1d, PReLU, Dropout, Flatten and
        activations. The parameters are copied, in float64 if any array is, otherwise in float32; a Linear
        without a bias gets zeros.
        """
        return cls.assembled(format_of("torch_module").from_torch(module, output, loss), backend)

    @classmethod
    def from_sklearn(cls, estimator: Any, *, backend: str = "auto") -> Self:
        """Return the model of scikit-learn's fitted MLPClassifier or MLPRegressor.

        Estimators of fastmlp have the model as `model_`.

        Raises
        ------
        TypeError
            For another estimator.
        """
        return cls.assembled(format_of("sklearn_estimator").from_sklearn(estimator), backend)
