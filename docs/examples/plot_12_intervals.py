"""
Intervals of a regression on a table
====================================

`TableRegressor` says how far off it may be: `predict_interval` goes by the errors on rows that its networks
have held out. Here the mass of Palmer's penguins is predicted (Gorman, Williams and Fraser 2014).
"""

import matplotlib.pyplot as plt
import numpy as np
from palmerpenguins import load_penguins
from sklearn.model_selection import train_test_split

import fastmlp

penguins = load_penguins().drop(columns="year").dropna(subset="body_mass_g")
train, test = train_test_split(penguins, test_size=0.5, random_state=0)
model = fastmlp.TableRegressor(random_state=0).fit(train, "body_mass_g")

mass = test["body_mass_g"].to_numpy()
print(f"R^2 of {len(test)} penguins that it has not seen: {model.score(test, 'body_mass_g'):.2f}")

# %%
# Each bar shall hold a penguin's mass with a probability of 90 %. On the right, whether intervals of each
# coverage hold as many as they shall.

predicted = model.predict(test)
low, high = model.predict_interval(test, coverage=0.9)
inside = (low <= mass) & (mass <= high)
coverages = np.linspace(0.1, 0.9, 9)
ends = [model.predict_interval(test, coverage) for coverage in coverages]
held = [np.mean((below <= mass) & (mass <= above)) for below, above in ends]

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.vlines(predicted, low, high, color="0.8", zorder=0)
for chosen, color, name in ((inside, "C0", "inside"), (~inside, "C1", "outside")):
    left.scatter(predicted[chosen], mass[chosen], s=12, color=color, label=f"{name}: {chosen.mean():.0%}")
left.set(xlabel="predicted mass (g)", ylabel="mass (g)")
left.legend()
right.plot([0, 1], [0, 1], color="0.6", linestyle="--")
right.plot(coverages, held, "o-")
right.set(xlabel="coverage of intervals", ylabel="share of penguins inside")
