"""
Overfitting and early stopping
==============================

With 200 rows and 64 inputs a network soon knows the rows themselves. The loss of rows that it has not seen
says when. Early stopping ends the training and returns the best parameters; dropout puts that moment off.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

import fastmlp

X, y = load_digits(return_X_y=True)
X = X / 16
held_out = X[200:], y[200:]


def trained(callbacks=(), **options):
    network = fastmlp.Network([64, 128, 10], "relu", "softmax", "cross_entropy", **options)
    return fastmlp.fit(
        network,
        X[:200],
        y[:200],
        optimizer=fastmlp.Adam(0.005),
        epochs=150,
        validation=held_out,
        callbacks=callbacks,
        seed=0,
    )


models = {
    "plain": trained(),
    "early stopping": trained([fastmlp.EarlyStopping(patience=20)]),
    "dropout 0.5": trained(dropout=0.5),
}

figure, axes = plt.subplots(1, 3, figsize=(9, 3.5), sharey=True, sharex=True, layout="constrained")
for axis, (name, model) in zip(axes, models.items(), strict=True):
    axis.set(title=name, yscale="log")
    fastmlp.LossCurveDisplay.from_estimator(model, ax=axis)
axes[0].set_ylim(1e-4, 10)
print(models["early stopping"].stop_reason)

# %%
# What came of it:

for name, model in models.items():
    right = (model.predict(held_out[0]).argmax(axis=1) == held_out[1]).mean()
    print(f"{name:<15} {right:.3f} of the held-out digits")
