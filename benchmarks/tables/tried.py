"""What was tried in the recipes of the learner of tables: a name for each, in words, and its recipes.

Separate from `recipes`, which measures them, and from `extended`, which has what is no option of `Recipe`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from fastmlp.model.gates import PReLU, Scale, Swish
from fastmlp.model.layers import Dense, Dropout, Members, Residual
from fastmlp.model.norms import LayerNorm
from fastmlp.model.part import Part
from fastmlp.tables.recipe import BINNED, PLAIN, PRESETS, WAVES, Recipe
from fastmlp.tables.selection import LEAST_FOLDS

from .extended import ByTarget, CosLog4, EmbeddedLevels, Extended, FlatCos


def with_layers(recipe: Recipe, hidden: Callable[[int, Dropout], list[Part]], *first: Part) -> Recipe:
    """Return a recipe with layers made of each width and a dropout, behind some first ones."""
    made = (hidden(width, Dropout(recipe.dropout)) for width in recipe.hidden)
    return with_options(recipe, layers=(*first, *(part for one in made for part in one)))


def silu(units: int, dropout: Dropout) -> list[Part]:
    """Return the layers of the presets."""
    return [_dense(units, "silu"), dropout]


def residual(recipe: Recipe) -> Recipe:
    """Return a recipe whose layers but the first one are residual."""
    drop = Dropout(recipe.dropout)
    first, *others = (silu(width, drop) for width in recipe.hidden)
    return with_options(recipe, layers=(*first, *(Residual(*one) for one in others)))


def with_options(recipe: Recipe, **more: Any) -> Extended:
    """Return a recipe with options of `Extended`."""
    return Extended(**(vars(recipe) | more))


def _dense(units: int, activation: str = "identity") -> Dense:
    return Dense(units, activation, weight_init="he_normal")


class Tried(NamedTuple):
    """What is in place of the recipes of `good`.

    says : in words; parts : how many networks hold out rows at least
    codes : whether numbers that are codes have columns beside them
    """

    says: str
    recipes: tuple[Recipe, ...]
    parts: int = LEAST_FOLDS
    codes: bool = True


def _of_all(says: str, change: Callable[[Recipe], Recipe]) -> Tried:
    return Tried(says, tuple(map(change, PRESETS["good"])))


def _of_embedded(says: str, change: Callable[[Recipe], Recipe]) -> Tried:
    return Tried(says, (PLAIN, change(BINNED), change(WAVES)))


SLOW = {"Grouped": 0.1, "Periodic": 0.1}
"""Of what embeds numbers: RealMLP's factor of their rates."""

TRIED = {
    "good": Tried("columns as they are, bins and cosines: the default", PRESETS["good"]),
    "fast": Tried("the preset `fast`", PRESETS["fast"]),
    "best": Tried("the preset `best`", PRESETS["best"]),
    "plain": Tried("columns as they are alone", (PLAIN,)),
    "bins": Tried("bins alone (`PiecewiseLinear`)", (BINNED,)),
    "cosines": Tried("cosines alone (`Periodic`)", (WAVES,)),
    "no-plain": Tried("without columns as they are", (BINNED, WAVES)),
    "no-bins": Tried("without bins", (PLAIN, WAVES)),
    "no-cosines": Tried("without cosines", (PLAIN, BINNED)),
    "bins-32": Tried("32 bins in place of 64", (PLAIN, replace(BINNED, bins=32), WAVES)),
    "bins-by-target": Tried(
        "bins are the leaves of a tree of the target", (PLAIN, ByTarget(**vars(BINNED)), WAVES)
    ),
    "embedded-levels": Tried(
        "bins and cosines, and 8 trained units for categories of more than 8 levels (beside `no-plain`)",
        (EmbeddedLevels(**vars(BINNED)), EmbeddedLevels(**vars(WAVES))),
    ),
    "no-codes": Tried("numbers that are codes are numbers only", PRESETS["good"], codes=False),
    "units-8": Tried("8 units for each number behind bins, not 16", (PLAIN, replace(BINNED, width=8), WAVES)),
    "bins-dropout-0.1": Tried("dropout 0.1 behind bins, not 0", (PLAIN, replace(BINNED, dropout=0.1), WAVES)),
    "cosines-dropout-0.1": Tried(
        "dropout 0.1 behind cosines, not 0.2", (PLAIN, BINNED, replace(WAVES, dropout=0.1))
    ),
    "scale": _of_embedded("`Scale` before the first layer", lambda one: with_layers(one, silu, Scale())),
    "residual": _of_all("the second layer is `Residual`", residual),
    "prelu": _of_all(
        "`PReLU`, a trained slope, in place of silu",
        lambda one: with_layers(one, lambda units, drop: [_dense(units), PReLU(), drop]),
    ),
    "swish": _of_all(
        "`Swish`, a trained factor, in place of silu",
        lambda one: with_layers(one, lambda units, drop: [_dense(units), Swish(), drop]),
    ),
    "layer-norm": _of_all(
        "`LayerNorm` before each silu",
        lambda one: with_layers(one, lambda units, drop: [_dense(units), LayerNorm(), "silu", drop]),
    ),
    "relu": _of_all("relu in place of silu", lambda one: replace(one, activation="relu")),
    "three-layers": _of_all("three layers of 128", lambda one: replace(one, hidden=(128, 128, 128))),
    "layers-64": _of_all("two layers of 64", lambda one: replace(one, hidden=(64, 64))),
    "no-average": _of_embedded("weights are not averaged", lambda one: replace(one, average=0.0)),
    "average-0.995": _of_embedded("`EMA(0.995)`, not 0.99", lambda one: replace(one, average=0.995)),
    "decay-1": _of_embedded("weight decay 1, not 0.01", lambda one: replace(one, decay=1.0)),
    "plain-decay-0.01": Tried(
        "weight decay 0.01 for columns as they are, not 1", (replace(PLAIN, decay=0.01), BINNED, WAVES)
    ),
    "smoothing": _of_all("labels smoothed by 0.1", lambda one: with_options(one, smoothing=0.1)),
    "coslog4": _of_all("RealMLP's schedule", lambda one: with_options(one, schedule=CosLog4)),
    "flat-cos": _of_all(
        "the rate falls in the second half only", lambda one: with_options(one, schedule=FlatCos)
    ),
    "slow-embeddings": Tried(
        "a tenth of the rate for bins and cosines, as RealMLP",
        (PLAIN, with_options(BINNED, rates={"Grouped": 0.1}), with_options(WAVES, rates=SLOW)),
    ),
    "members": _of_all(
        "three networks with `Members(8)` (TabM), not seven",
        lambda one: replace(with_layers(one, silu, Members(8)), most_members=3),
    ),
    "patience-10": _of_all("a patience of 10 epochs, not 20", lambda one: replace(one, patience=10)),
    "one-network": _of_all("one network of each recipe, not seven", lambda one: replace(one, most_members=1)),
    "networks-3": _of_all(
        "three networks of each recipe, not seven", lambda one: replace(one, most_members=3)
    ),
    "no-all-rows": _of_all(
        "five networks, each of which holds out rows", lambda one: replace(one, most_members=5)
    )._replace(parts=5),
}
