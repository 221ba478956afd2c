"""
Autoencoder: digits in two dimensions
=====================================

A network whose targets are its inputs must press 64 pixels through a layer of two units, and find a place
on a map for every digit. The first half of its layers is then a model of its own, which gives the place.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastmlp

X, y = load_digits(return_X_y=True)
X = X / 16
hidden = ["silu", "silu", "tanh", "silu", "silu"]
network = fastmlp.Network([64, 64, 32, 2, 32, 64, 64], hidden, "sigmoid", "binary_cross_entropy")
optimizer = fastmlp.AdamW(fastmlp.Cosine(0.004, length=150))
model = fastmlp.fit(network, X, X, optimizer=optimizer, epochs=150, seed=2)

# %%
# No training, 0 epochs: a model of the first three layers. tanh bounds their two outputs to a square.

encoder = fastmlp.fit(
    fastmlp.Network([64, 64, 32, 2], "silu"),
    X,
    X[:, :2],
    initial=(model.weights[:3], model.biases[:3]),
    epochs=0,
)
places = np.tanh(encoder.predict(X))

figure, axis = plt.subplots(figsize=(6.5, 5), layout="constrained")
dots = axis.scatter(*places.T, c=y, cmap="tab10", s=8, vmin=-0.5, vmax=9.5)
figure.colorbar(dots, ticks=range(10), label="digit")

# %%
# Above each digit as it is, below what came through the two units.

drawn = model.predict(X[:10])
figure, axes = plt.subplots(2, 10, figsize=(9, 2.2), layout="constrained")
for axis, image in zip(axes.flat, [*X[:10], *drawn], strict=True):
    axis.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
    axis.axis("off")
