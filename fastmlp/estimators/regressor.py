"""MLPRegressor: a real number, or several, for each row."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score

from fastmlp import checks
from fastmlp.estimators.base import Perceptron
from fastmlp.estimators.parameters import FTOL, LOSSES, REGRESSOR
from fastmlp.model.loss import Loss
from fastmlp.model.state import Array
from fastmlp.trained.model import Model


def _output(loss: str) -> str:
    """Return the output activation of a loss."""
    return "exp" if loss == "poisson" else "identity"


_ENDS = [(_output(loss), loss) for loss in LOSSES]


@checks.listing(losses=LOSSES)
class MLPRegressor(RegressorMixin, Perceptron):  # type: ignore[misc]  # scikit-learn is untyped
    """scikit-learn's MLPRegressor, trained by fastmlp: the same steps from the same random_state.

    Every parameter of `sklearn.neural_network.MLPRegressor` is here, with the same place, default and
    meaning; see scikit-learn's documentation. Further parameters are as for `fastmlp.MLPClassifier`, except
    for the following.

    Parameters
    ----------
    loss : str or Loss
        {losses}:
        means over rows and outputs, with the output "identity" (poisson: "exp"); or losses with parameters,
        as `Huber(0.5)` or `Quantiles([0.1, 0.9])`; or a custom `Loss` or `RowLoss`, with its output. For a
        parameter for each output, and a single column of y, there are as many outputs, as for several
        quantiles.
    stopping_metric : str, callable or None
        What early_stopping maximises, as for MLPClassifier. None is R^2.
    solver : str or Optimizer
        Also "lm": `fastmlp.LevenbergMarquardt(min_gradient=tol)`, for "squared_error" and "poisson". It reads
        all rows in each of `max_iter` steps; batch_size, shuffle and n_iter_no_change do not count then.
    posterior : bool
        Whether `fit` finds the posterior of the parameters, of the losses "squared_error" and "poisson", for
        `predict(X, return_std=True)`. `posterior_` is then a `fastmlp.Posterior`, of the last call's rows.

    Notes
    -----
    For several outputs the gradient of "squared_error" belongs to the sum over the outputs, while the loss is
    the mean. In scikit-learn 1.9 the line search of "lbfgs" then sees slopes of other values; this class
    takes the same steps. `partial_fit` with solver="lbfgs" runs a whole search, as there. With a y below 0
    the poisson loss is NaN, and training goes on, as there.
    """

    _parameter_constraints = REGRESSOR

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: Any = 0.0,
        layers: Any = None,
        init: Any = None,
        validation_set: Any = None,
        stopping_metric: Any = None,
        callbacks: Any = (),
        max_time: float | None = None,
        progress: bool = False,
        backend: str = "auto",
        threads: int | None = None,
        dtype: Any = None,
        input_scale: float = 1.0,
        ftol: float = FTOL,
        posterior: bool = False,
    ) -> None:
        self._keep(locals())

    @classmethod
    def from_model(cls, model: Model) -> MLPRegressor:
        """Return a fitted regressor of a model; as `MLPClassifier.from_model`.

        Parameters
        ----------
        model : Model, with an output and a loss of the regressor

        Raises
        ------
        ValueError, TypeError
            If the regressor has no such output or loss.
        """
        if not isinstance(model, Model):
            raise TypeError(f"model must be a Model, got {checks.shown(model)}")
        loss, output = model.network.loss, model.network.output
        names = {theirs: name for name, theirs in LOSSES.items()} | {"poisson": "poisson"}
        if not isinstance(loss, Loss) and (output, names.get(loss)) not in _ENDS:
            raise ValueError(
                f"MLPRegressor has no output {output!r} with loss {loss!r}; it has: "
                + ", ".join(f"{output} with {name}" for output, name in _ENDS)
            )
        return cls._holding(model, {"loss": loss if isinstance(loss, Loss) else names[loss]})

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, epochs: int = 1
    ) -> MLPRegressor:
        """Train on for some epochs over these rows.

        With solver="lbfgs" a call minimises anew from the current parameters, as in scikit-learn.

        Parameters
        ----------
        X, y, sample_weight : as for `fit`
        epochs : int, at least 1

        Returns
        -------
        The estimator itself.

        Raises
        ------
        ValueError, TypeError
            As `fit`.
        """
        self._train(X, y, sample_weight, checks.whole("epochs", epochs, 1))
        return self

    def _after_fit(self, X: Any, y: Any) -> None:
        vars(self).pop("posterior_", None)  # type: ignore[attr-defined]  # of an instance it is a dict
        if self.posterior:
            if y is None:
                raise ValueError("posterior=True needs rows in memory, X and y; got blocks")
            from fastmlp.derivatives.laplace import laplace

            self.posterior_ = laplace(self.model_, self._rows_for(X), self._targets(np.asarray(y)))

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the prediction for every row.

        Parameters
        ----------
        X : (rows, n_in) array, data frame, CSR or CSC matrix of finite numbers
        return_std : True to return standard deviations of the targets, too, as `Posterior.predict`

        Returns
        -------
        (rows,) array of the training's dtype, or (rows, n_out) for several outputs; with
        return_std a pair of such arrays

        Raises
        ------
        NotFittedError
            Before the first fit.
        ValueError, TypeError
            If X is not such rows, or there is no posterior for return_std.
        """
        if not checks.flag("return_std", return_std):
            return self._decoded(self._outputs_for(X))
        rows = self._rows_for(X)
        if not hasattr(self, "posterior_"):
            raise ValueError("return_std needs a posterior; make the estimator with posterior=True")
        mean, std = self.posterior_.predict(rows, return_std=True)
        return self._decoded(mean), self._decoded(std)

    # --- what y means -------------------------------------------------------------------------------

    def _targets(self, y: Any) -> Array:
        if y.dtype.kind not in "buif":  # scikit-learn lets strings pass, and then fails to subtract them
            raise TypeError(f"y must hold real numbers, got dtype {y.dtype}; MLPClassifier learns labels")
        # scikit-learn trains on a sparse array of several columns, too.
        y = y.toarray() if scipy.sparse.issparse(y) else y
        targets = y.reshape(len(y), -1)
        several = len(getattr(self.loss, "parameter", None) or ())
        return np.repeat(targets, several, axis=1) if several and targets.shape[1] == 1 else targets

    def _ends_in(self) -> tuple[str, str | Loss]:
        if isinstance(self.loss, Loss):
            if self.loss.outputs_per_target > 1:
                raise ValueError(
                    f"MLPRegressor predicts one number for a target, and {self.loss!r} has "
                    f"{self.loss.outputs_per_target}; "
                    "train it with fastmlp.fit"
                )
            return self.loss.outputs[0], self.loss
        return _output(self.loss), LOSSES[self.loss]

    def _decoded(self, outputs: Array) -> Array:
        return outputs.ravel() if outputs.shape[1] == 1 else outputs

    def _default_score(self, y: Array, predicted: Array, sample_weight: Array | None) -> float:
        # A training that diverges is no error, and must not have the best score.
        if not np.isfinite(predicted).all():
            return float("nan")
        return float(r2_score(y, predicted, sample_weight=sample_weight))
