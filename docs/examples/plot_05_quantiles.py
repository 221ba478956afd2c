"""
Quantile regression
===================

The mean says nothing of how far the values spread. The pinball loss, with a level for each of three outputs,
makes one network that predicts three quantiles.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastmlp

rng = np.random.default_rng(0)
x = np.sort(rng.uniform(-3, 3, 1500))
y = np.sin(2 * x) + rng.normal(size=x.size) * (0.1 + 0.15 * (x + 3))

network = fastmlp.Network([1, 32, 32, 3], "tanh", loss=fastmlp.Quantiles([0.05, 0.5, 0.95]))
model = fastmlp.fit(network, x[:, None], y, optimizer=fastmlp.Adam(0.005), epochs=150, seed=0)
low, middle, high = model.predict(x[:, None]).T

figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
axis.scatter(x, y, s=5, color="0.6", label="rows")
axis.fill_between(x, low, high, alpha=0.3, label="5 % to 95 %")
axis.plot(x, middle, color="C3", label="median")
axis.legend()

# %%
# A share of the rows lies below each:

print([f"{np.mean(y < line):.2f}" for line in (low, middle, high)])
