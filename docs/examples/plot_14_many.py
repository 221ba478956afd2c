"""
Loss curves of many models
==========================

``fit_many`` trains a model for each learning rate of a list in a single call, here 60 rates with a start and
an order of rows for each model.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

import fastmlp

X, y = load_breast_cancer(return_X_y=True)
X = scale(X)
network = fastmlp.Network([30, 16, 1], "relu", output="sigmoid", loss="binary_cross_entropy")
rates = np.geomspace(1e-4, 0.3, 60)
optimizers = [fastmlp.Adam(rate) for rate in rates]
models = fastmlp.fit_many(network, X, y, optimizer=optimizers, epochs=40, validation=0.3, seed=0)

# %%
# Each curve is a model. Small rates learn slowly, great rates overfit or jump.

curves = np.array([model.history["validation_loss"] for model in models])
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
colors = plt.get_cmap("viridis")(np.linspace(0, 1, len(rates)))
for curve, color in zip(curves, colors, strict=True):
    left.plot(curve, color=color, linewidth=0.8)
left.set(yscale="log", xlabel="epoch", ylabel="validation loss")
right.scatter(rates, curves.min(axis=1), c=colors, label="best epoch")
right.plot(rates, curves[:, -1], color="0.6", linewidth=0.8, label="last epoch")
right.set(xscale="log", yscale="log", xlabel="learning rate of Adam", ylabel="validation loss")
right.legend()
