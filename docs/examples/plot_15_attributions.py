"""
Attributions of digits
======================

Integrated gradients divide a prediction among the pixels of the image (Sundararajan, Taly and Yan 2017). The
values of an image sum to the change of the output from an empty image.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastmlp

X, y = load_digits(return_X_y=True)
X = X / 16
network = fastmlp.Network([64, 64, 10], "silu", output="softmax", loss="cross_entropy")
model = fastmlp.fit(network, X[:1500], y[:1500], optimizer=fastmlp.AdamW(0.003), epochs=30, seed=0)

# %%
# Red pixels speak for the digit, blue pixels against the digit. Below: the same images with the digit
# that the model confuses most easily.

figure, axes = plt.subplots(3, 6, figsize=(9, 4.8), layout="constrained")
for column, index in zip(axes.T, (1501, 1505, 1509, 1512, 1520, 1533), strict=True):
    image = X[index : index + 1]
    probability = model.predict(image)[0]
    second, first = np.argsort(probability)[-2:]
    column[0].imshow(image.reshape(8, 8), cmap="gray_r")
    column[0].set_title(f"a {y[index]}")
    for axis, digit in zip(column[1:], (first, second), strict=True):
        values = model.attribute(image, output=int(digit), logits=True, steps=50).values
        bound = np.abs(values).max()
        axis.imshow(values.reshape(8, 8), cmap="RdBu_r", vmin=-bound, vmax=bound)
        axis.set_title(f"as {digit}: {probability[digit]:.0%}", fontsize=9)
for axis in axes.flat:
    axis.axis("off")
