"""
Custom callback: weights during training
========================================

A callback of one's own runs after every epoch. This one keeps the weights of the first layer, each unit's as
a picture of what it looks for.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

import fastmlp

EPOCHS = (0, 1, 5, 20, 60)


class Album(fastmlp.Callback):
    """Keeps the first layer's weights after some epochs."""

    def on_train_begin(self, run):
        self.pages = {0: run.layers[0][0].copy()}

    def on_epoch_end(self, run):
        if run.epoch in EPOCHS:
            weights, _ = run.layers[0]  # a live view, (64, 8)
            self.pages[run.epoch] = weights.copy()


X, y = load_digits(return_X_y=True)
network = fastmlp.Network([64, 8, 10], "relu", "softmax", "cross_entropy", l2=0.003)
album = Album()
fastmlp.fit(network, X / 16, y, optimizer=fastmlp.Adam(0.01), epochs=EPOCHS[-1], callbacks=[album], seed=3)

figure, axes = plt.subplots(len(EPOCHS), 8, figsize=(8, 5.2), layout="constrained")
for row, (epoch, weights) in zip(axes, album.pages.items(), strict=True):
    for axis, unit in zip(row, weights.T, strict=True):
        axis.imshow(unit.reshape(8, 8), cmap="RdBu", vmin=-0.8, vmax=0.8)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"epoch {epoch}")
