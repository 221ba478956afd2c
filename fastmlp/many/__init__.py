"""Many models in a call: `fit_many` and `predict_many`, on the parts of `fit`."""
