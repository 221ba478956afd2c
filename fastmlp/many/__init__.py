"""Many models in one call: `fit_many` and `predict_many`, on the parts of `fit`."""
