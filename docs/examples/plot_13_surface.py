"""
A decision surface that forms
=============================

Two spirals, and the probability of the red class after a growing number of epochs. ``iter_fit`` returns
the run after each epoch, so that the training can be watched.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastmlp

rng = np.random.default_rng(0)
angle = np.sqrt(rng.random(500)) * 3 * np.pi
red = np.arange(500) % 2
turn = angle + np.pi * red
X = np.stack([np.cos(turn), np.sin(turn)], axis=1) * angle[:, None] / 8 + rng.normal(0, 0.03, (500, 2))

network = fastmlp.Network([2, 64, 64, 1], "tanh", output="sigmoid", loss="binary_cross_entropy")
side = np.linspace(-1.4, 1.4, 120)
grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)

# %%
# Blue and red are the probabilities. The first straight boundary bends around the centre, and then
# follows both arms outwards.

shown = iter((1, 20, 60, 120, 200, 400))
figure, axes = plt.subplots(2, 3, figsize=(9, 6), sharex=True, sharey=True, layout="constrained")
panels, epoch = iter(axes.flat), next(shown)
training = fastmlp.iter_fit(network, X, red, optimizer=fastmlp.Adam(0.005), epochs=400, seed=0)
for run in training:
    if run.epoch == epoch:
        axis, epoch = next(panels), next(shown, None)
        probability = run.predict(grid).reshape(120, 120)
        axis.contourf(side, side, probability, levels=np.linspace(0, 1, 21), cmap="RdBu_r")
        axis.scatter(*X.T, c=red, cmap="RdBu_r", edgecolors="k", linewidths=0.3, s=8)
        axis.set_title(f"epoch {run.epoch}, loss {run.history['loss'][-1]:.3f}")
