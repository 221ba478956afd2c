"""
The spread of an ensemble
=========================

Fifty networks, each on a bootstrap sample of the rows: where data are missing, the networks disagree.
``fastmlp.Ensemble`` has the mean and the spread.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastmlp

rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-3, -0.5, 60), rng.uniform(1.5, 3, 40)])
X, y = x[:, None], np.sin(2 * x) + 0.3 * x + rng.normal(0, 0.15, len(x))

network = fastmlp.Network([1, 32, 32, 1], "tanh")
samples = [*rng.integers(0, len(x), (50, len(x)))]
models = fastmlp.fit_many(network, X, y, rows=samples, optimizer=fastmlp.Adam(0.01), epochs=1000, seed=0)
ensemble = fastmlp.Ensemble(models)

# %%
# Between -0.5 and 1.5 there is no row. The band is the mean and two standard deviations of the networks'
# predictions; thin lines are ten of the networks.

grid = np.linspace(-4, 4, 300)[:, None]
mean, spread = ensemble.predict(grid)[:, 0], ensemble.predict_std(grid)[:, 0]

figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
axis.fill_between(grid[:, 0], mean - 2 * spread, mean + 2 * spread, color="C0", alpha=0.25)
axis.plot(grid, mean, color="C0")
for model in models[:10]:
    axis.plot(grid, model.predict(grid), color="0.5", linewidth=0.5)
axis.scatter(x, y, s=10, color="k", zorder=3)
axis.set(ylim=(-2.5, 2.5), xlabel="x", ylabel="y")
