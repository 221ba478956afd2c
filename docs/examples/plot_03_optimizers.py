"""
Optimisers and schedules
========================

The same network from the same start, in the same order of rows: one ``seed`` fixes them for every optimiser.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastmlp

X, y = load_digits(return_X_y=True)
network = fastmlp.Network([64, 64, 10], "gelu", "softmax", "cross_entropy")

optimizers = {
    "SGD(0.1)": fastmlp.SGD(0.1),
    "SGD(0.1, momentum=0.9)": fastmlp.SGD(0.1, momentum=0.9),
    "RMSprop(0.001)": fastmlp.RMSprop(0.001),
    "Adam(0.001)": fastmlp.Adam(0.001),
    "AdamW, warm-up and cosine": fastmlp.AdamW(fastmlp.Warmup(fastmlp.Cosine(0.005, length=40), length=4)),
}

figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
for name, optimizer in optimizers.items():
    model = fastmlp.fit(network, X / 16, y, optimizer=optimizer, epochs=40, validation=0.2, seed=0)
    (line,) = axis.plot(model.history["loss"], label=name)
    axis.plot(model.history["validation_loss"], "--", color=line.get_color(), linewidth=1)
axis.set(yscale="log", xlabel="epoch", ylabel="cross-entropy (dashed: validation)")
axis.legend()

# %%
# The schedule of the last one: a rate for every epoch.

schedule = optimizers["AdamW, warm-up and cosine"].learning_rate
figure, axis = plt.subplots(figsize=(8, 2.5), layout="constrained")
axis.plot(schedule.rates(np.arange(40), steps_per_epoch=1))
axis.set(xlabel="epoch", ylabel="learning rate")
