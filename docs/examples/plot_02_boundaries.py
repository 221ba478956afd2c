"""
Decision boundaries of hidden layers
====================================

Two moons, classified by networks of growing width. A relu network cuts the plane along straight lines, one
for each hidden unit; tanh bends them.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

import fastmlp

X, y = make_moons(400, noise=0.2, random_state=0)
widths, activations = (2, 8, 64), ("relu", "tanh")


def trained(width, activation):
    network = fastmlp.Network([2, width, 1], activation, "sigmoid", "binary_cross_entropy")
    return fastmlp.fit(network, X, y, optimizer=fastmlp.Adam(0.02), epochs=300, seed=1)


# %%
# Blue is the probability of one class, red that of the other.

side = np.linspace(-2.5, 3.5, 120), np.linspace(-2, 2.5, 120)
grid = np.stack(np.meshgrid(*side), axis=-1)

figure, axes = plt.subplots(2, 3, figsize=(9, 5.5), sharex=True, sharey=True, layout="constrained")
for row, activation in zip(axes, activations, strict=True):
    for axis, width in zip(row, widths, strict=True):
        model = trained(width, activation)
        probability = model.predict(grid.reshape(-1, 2)).reshape(120, 120)
        axis.contourf(*side, probability, levels=np.linspace(0, 1, 11), cmap="RdBu", alpha=0.8)
        axis.scatter(*X.T, c=y, cmap="RdBu", edgecolors="k", linewidths=0.4, s=12)
        axis.set_title(f"{width} {activation}, loss {model.history['loss'][-1]:.2f}")
