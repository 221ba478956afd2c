"""
Tabular classification: Palmer penguins
=======================================

Columns of numbers and of words, with some values missing: `TableClassifier` encodes them by itself. The
penguins are Palmer's (Gorman, Williams and Fraser 2014), and their sex is to be found.
"""

import matplotlib.pyplot as plt
from palmerpenguins import load_penguins
from sklearn.model_selection import train_test_split

import fastmlp

penguins = load_penguins().drop(columns="year")
known, unknown = penguins.dropna(subset="sex"), penguins[penguins["sex"].isna()]
train, test = train_test_split(known, test_size=0.3, random_state=0)
model = fastmlp.TableClassifier(random_state=0).fit(train, "sex")

X, sex = test.drop(columns="sex"), test["sex"]
print(f"right for {100 * model.score(X, sex):.0f} % of {len(test)} held-out penguins")

# %%
# The importance of a column is the rise of the loss if the column is shuffled. The effect of a column is the
# mean prediction by its values.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
model.plot(test, panel="importances", ax=left)
model.plot(test, panel="bill_depth_mm", ax=right)

# %%
# The predictions of each penguin.

male = model.predict_proba(X)[:, 1]
figure, right = plt.subplots(figsize=(7, 4), layout="constrained")
for species, marker in (("Adelie", "o"), ("Chinstrap", "s"), ("Gentoo", "^")):
    for name, color in (("female", "C1"), ("male", "C0")):
        chosen = (X["species"] == species) & (sex == name)
        mass = X["body_mass_g"][chosen]
        right.scatter(mass, male[chosen], color=color, marker=marker, label=f"{species}, {name}")
right.set(xlabel="body mass (g)", ylabel="probability of a male")
figure.legend(loc="outside lower right", ncols=3)

# %%
# Of some penguins nobody noted the sex. A missing value is an input, too; without measurements the prediction
# is a guess.

guessed = unknown.drop(columns="sex").assign(male=model.predict_proba(unknown)[:, 1].round(2))
print(guessed[["species", "bill_length_mm", "body_mass_g", "male"]].to_string(index=False))
