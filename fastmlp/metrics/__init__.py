"""Metrics of `fit(metrics=)`, by scikit-learn's names or as functions."""
