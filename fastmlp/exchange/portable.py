"""The methods by which a model leaves for other programs and comes from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from numpy.typing import ArrayLike, NDArray

from fastmlp.exchange.chains import Parts
from fastmlp.exchange.folding import folded
from fastmlp.model.layout import layer_views
from fastmlp.model.losses import Loss
from fastmlp.model.network import Network


class Portable:
    """What `Model` inherits; each format has a file of its own in `fastmlp.exchange`.

    docs/exchange.md says within which bound the predictions of each are the model's. All take inputs as the
    model does: a network's input_scale is folded into the weights of its first layer.
    """

    network: Network
    parameters: NDArray[Any]

    @classmethod
    def assembled(cls, parts: Parts, backend: str) -> Self:
        """Return a model of a network and its parameters."""
        raise NotImplementedError

    # --- out ----------------------------------------------------------------------------------------

    def to_onnx(self, path: str | Path) -> None:
        """Write an ONNX file: input "X" (rows, n_in), output "output" (rows, n_out), in the model's dtype.

        Needs onnx: `pip install "fastmlp[onnx]"`. An activation that ONNX has no operator for is
        written by its formula, a user's own too; in float64 also those that onnxruntime has none for.
        """
        from fastmlp.exchange import onnx_graph

        onnx_graph.write(*folded(self.network, self.parameters), path)

    def to_c(
        self, path: str | Path, *, name: str | None = None, fixed_point: ArrayLike | None = None
    ) -> None:
        """Write a C99 header with `void NAME_predict(const real *x, real *out)`, for one row.

        It allocates nothing and needs only math.h; real is float or double, the model's dtype.

        Parameters
        ----------
        path : of the file
        name : what its functions begin with; None for the file's name
        fixed_point : (rows, n_in) array, optional
            Rows like those to be predicted. Layers then compute in integers, 16 bits for weights and values,
            scaled by powers of two that suit these rows, and the header says how far its results may be off;
            `void NAME_logits(const int16_t *x, int32_t *z)` is without floating-point numbers.

        Raises
        ------
        ValueError
            If the name is no identifier, or rows are not as for `predict`.
        """
        from fastmlp.exchange import c_header
        from fastmlp.exchange import fixed_point as integers

        name = c_header.identifier(path, name)
        if fixed_point is None:
            text = c_header.header(*folded(self.network, self.parameters), name)
        else:
            text = integers.header(*folded(self.network, self.parameters), name, fixed_point)
        Path(path).write_text(text, encoding="ascii")

    def to_numpy_source(self) -> str:
        """Return a Python module's text with `predict(X)`, which needs NumPy alone.

        And SciPy where an activation is made of erf or expit, as gelu is.
        """
        from fastmlp.exchange import numpy_source

        return numpy_source.source(*folded(self.network, self.parameters))

    def to_torch(self) -> Any:
        """Return a `torch.nn.Sequential` with a copy of the parameters, in eval mode.

        Needs PyTorch: `pip install "fastmlp[torch]"`.
        """
        from fastmlp.exchange import torch_module

        return torch_module.module(*folded(self.network, self.parameters))

    def to_sklearn(self, classes: ArrayLike | None = None) -> Any:
        """Return a fitted MLPClassifier (softmax, sigmoid) or MLPRegressor (identity, exp) of scikit-learn's.

        Parameters
        ----------
        classes : (k,) labels in the order of the outputs, ascending; None for whole numbers from 0

        Raises
        ------
        ValueError
            If scikit-learn has no counterpart: it has identity, relu, logistic and tanh, one for all layers.
        """
        from fastmlp.exchange import sklearn_estimator

        return sklearn_estimator.estimator(*folded(self.network, self.parameters), classes)

    def to_keras_weights(self) -> list[NDArray[Any]]:
        """Return copies of the weights and biases, in the order that `set_weights` of a Keras model takes.

        For a `keras.Sequential` of one `Dense` a layer. Keras calls identity "linear" and exp "exponential";
        its leaky_relu and gelu are others by default and need `lambda z: keras.ops.leaky_relu(z, 0.01)` and
        `lambda z: keras.ops.gelu(z, approximate=False)`.
        """
        network, parameters = folded(self.network, self.parameters)
        views = layer_views(parameters.copy(), network.sizes)
        return [array for layer in views for array in layer]

    @property
    def jit_predict(self) -> Any:
        """A function jitted by Numba, (rows, n_in) to (rows, n_out), which compiled code of yours may call.

        It has the parameters as they are now, and is made anew at every access: keep it in a variable.
        """
        from fastmlp.exchange import jitted

        return jitted.compiled(*folded(self.network, self.parameters))

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
        """Return the model of an ONNX file that holds a plain chain of layers and activations.

        Needs onnx: `pip install "fastmlp[onnx]"`. Layers are Gemm, or MatMul and Add. What stands between two
        of them, element by element, becomes one of fastmlp's activations, or an `Activation` of that formula.

        Parameters
        ----------
        path : of the file
        output : the last activation, where the file ends in logits; None for what is there
        loss : for a training that goes on; None for the one that goes with the output
        backend : as for `fit`

        Raises
        ------
        ValueError
            In one line, for a node that no such chain has.
        """
        from fastmlp.exchange import onnx_reader
        from fastmlp.exchange.chains import parts_of

        return cls.assembled(parts_of(str(path), onnx_reader.read(path), output, loss), backend)

    @classmethod
    def from_torch(
        cls,
        module: Any,
        *,
        output: str | None = None,
        loss: str | Loss | None = None,
        backend: str = "auto",
    ) -> Self:
        """Return the model of a `torch.nn.Sequential` of Linear, activations and Dropout; as `from_onnx`.

        The parameters are copied, in float64 if one of them is, else in float32.
        """
        from fastmlp.exchange import torch_module
        from fastmlp.exchange.chains import parts_of

        return cls.assembled(parts_of("the module", torch_module.read(module), output, loss), backend)

    @classmethod
    def from_sklearn(cls, estimator: Any, *, backend: str = "auto") -> Self:
        """Return the model of a fitted MLPClassifier or MLPRegressor of scikit-learn's.

        fastmlp's own have it as `model_`.

        Raises
        ------
        TypeError
            For another estimator.
        """
        from fastmlp.exchange import sklearn_estimator

        return cls.assembled(sklearn_estimator.read(estimator), backend)
