"""
Out-of-core training: denoising a photograph
============================================

A network that takes the noise out of a photograph sees a window of 9 by 9 pixels, and gives the one in its
middle. One photograph has 270 000 such windows, 81 numbers each. They are made strip by strip, as they are
needed: `fit` takes a function that gives block after block, and calls it for every epoch.
"""

import matplotlib.pyplot as plt
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_sample_image

import fastmlp

SIZE, MARGIN, STRIP = 9, 4, 32

rng = np.random.default_rng(0)


def grey_and_noisy(name):
    """A photograph as (height, width) of 0 to 255, and as bytes with noise."""
    grey = load_sample_image(name).mean(axis=-1)
    return grey, np.clip(grey + rng.normal(0, 25, grey.shape), 0, 255).astype(np.uint8)


def windows(noisy):
    """A view (height, width, 9, 9): the pixels around each pixel. It takes no memory."""
    return sliding_window_view(np.pad(noisy, MARGIN, "reflect"), (SIZE, SIZE))


flower, noisy_flower = grey_and_noisy("flower.jpg")


def strips():
    for top in range(0, len(flower), STRIP):
        rows = slice(top, top + STRIP)
        yield windows(noisy_flower)[rows].reshape(-1, SIZE**2), flower[rows].reshape(-1, 1) / 255


# %%
# Blocks are bytes; the network scales them itself, by `input_scale`.

network = fastmlp.Network([SIZE**2, 64, 32, 1], "relu", input_scale=1 / 255)
model = fastmlp.fit(network, strips, optimizer=fastmlp.Adam(0.001), epochs=4, dtype=np.float32, seed=0)

block = next(strips())[0]
print(f"a block takes {block.nbytes:,} bytes, all rows in float32 {4 * flower.size * SIZE**2:,}")

# %%
# On a photograph that it has not seen:

china, noisy_china = grey_and_noisy("china.jpg")
seen = slice(60, 260), slice(260, 560)
around = windows(noisy_china)[seen]
cleaned = 255 * model.predict(around.reshape(-1, SIZE**2)).reshape(around.shape[:2])

figure, axes = plt.subplots(1, 3, figsize=(9, 2.5), layout="constrained")
images = {"with noise": noisy_china[seen], "cleaned": cleaned, "as it was": china[seen]}
for name, image in list(images.items())[:2]:
    print(f"{name}: rms error {np.sqrt(np.mean((image - china[seen]) ** 2)):.1f} of 255")
for axis, (name, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    axis.set_title(name)
    axis.axis("off")
