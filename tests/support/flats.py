"""A table of flats, and settings that learn it quickly."""

import numpy as np
import polars as pl

QUICK = {
    "hidden": (8,),
    "epochs": 40,
    "batch_size": 32,
    "learning_rate": 0.02,
    "members": 2,
    "backend": "fused",
    "threads": 1,
    "random_state": 0,
}  # fmt: skip
"""Settings that learn `flats` in a few hundredths of a second, by a program that most tests have compiled."""


QUICKLY = "--batch-size 32 --learning-rate 0.02 --backend fused --threads 1 --quiet --hidden 8 --members 2"
"""Such settings for the command line, which begins many epochs: 40 are in LEARNED."""

LEARNED = f"{QUICKLY} --epochs 40"


def flats(rows=200, seed=0):
    """A table of which price and kind can be learned; some sizes are missing."""
    rng = np.random.default_rng(seed)
    size, city = rng.uniform(20, 150, rows), rng.choice(["Rome", "Oslo", "Lima"], rows)
    price = 1000 * size * np.select([city == "Rome", city == "Oslo"], [3.0, 5.0], 1.0)
    return pl.DataFrame(
        {
            "size": np.where(np.arange(rows) % 17 == 0, None, size).tolist(), "city": city,
            "noise": rng.normal(size=rows), "price": price,
            "kind": np.where(price > np.median(price), "dear", "cheap"),
        }
    )  # fmt: skip
