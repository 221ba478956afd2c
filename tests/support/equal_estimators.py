"""Whether two fitted estimators are equal in all that scikit-learn documents."""

import numpy as np


def assert_close(got, expected, tolerance, what):
    got, expected = np.asarray(got, float), np.asarray(expected, float)
    assert got.shape == expected.shape, what
    scale = np.abs(expected).max(initial=1e-300)
    np.testing.assert_allclose(got / scale, expected / scale, rtol=0, atol=tolerance, err_msg=what)


def assert_same(ours, other, X, tolerance):
    """The fitted attributes and predictions of two estimators agree."""
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(other, name), name
    for i, (got, expected) in enumerate(zip(ours.coefs_, other.coefs_, strict=True)):
        assert_close(got, expected, tolerance, f"coefs_[{i}]")
    for i, (got, expected) in enumerate(zip(ours.intercepts_, other.intercepts_, strict=True)):
        assert_close(got, expected, tolerance, f"intercepts_[{i}]")
    assert_close(ours.loss_, other.loss_, tolerance, "loss_")
    for name in ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
        assert hasattr(ours, name) == hasattr(other, name), name
        expected = getattr(other, name, None)
        if expected is None:
            assert getattr(ours, name, None) is None, name
        else:
            assert_close(getattr(ours, name), expected, tolerance, name)
    if hasattr(other, "predict_proba"):
        assert_close(ours.predict_proba(X), other.predict_proba(X), tolerance, "predict_proba")
        np.testing.assert_array_equal(ours.predict(X), other.predict(X))
        np.testing.assert_array_equal(ours.classes_, other.classes_)
    else:
        assert_close(ours.predict(X), other.predict(X), tolerance, "predict")
