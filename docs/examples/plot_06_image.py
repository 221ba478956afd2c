"""
Fitting an image with sine activations (SIREN)
==============================================

A network that knows one picture: from the place of a pixel it gives its brightness. relu draws it blurred.
A sine finds the edges (Sitzmann and others 2020, "Implicit neural representations with periodic
activation functions"): an activation of one line, which compiles like fastmlp's own.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import fastmlp

picture = load_sample_image("china.jpg")[20:404:6, 180:564:6].mean(axis=-1) / 255  # 64 by 64
height, width = picture.shape
places = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), axis=-1)
X = places.reshape(-1, 2).astype(np.float32)
y = picture.reshape(-1).astype(np.float32)

sine = fastmlp.Activation("sine", lambda z: np.sin(20 * z))


def drawn(activation, init):
    network = fastmlp.Network([2, 128, 128, 1], activation, weight_init=init)
    optimizer = fastmlp.Adam(fastmlp.Cosine(0.001, length=80))
    model = fastmlp.fit(network, X, y, optimizer=optimizer, epochs=80, seed=0)
    return model.predict(X).reshape(height, width)


images = {
    "the picture": picture,
    "relu": drawn("relu", "he_uniform"),
    "sin(20 z)": drawn(sine, "glorot_uniform"),
}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
for axis, (name, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    axis.set_title(f"{name}, rms error {np.sqrt(np.mean((image - picture) ** 2)):.3f}")
    axis.axis("off")
