"""What each peer's losses and predictions are held against before it is timed: NumPy in float64."""

import numpy as np

# Loss after a few steps: float32 rounding (6e-8) grown by sums over up to 1024 terms and by Adam,
# which divides by the square root of tiny gradients.
RELATIVE_ERROR = {"float32": 2e-4, "float64": 1e-8}


def check(work, run):
    """Return the relative error of a peer's last loss; AssertionError if it is not the reference's.

    run : run(epochs) of a peer, prepared for work.small() with shuffle=False
    """
    epochs = 8 if work.full_batch else 2
    options = {"backend": "reference", "dtype": "float64", "shuffle": False}
    before, *_, want = work.small().fit(epochs=epochs, **options).history["loss"]
    got = float(run(epochs)[-1])  # or NumPy rounds what is subtracted from float32
    error = abs(got - want) / abs(want)
    assert abs(before - want) > 10 * RELATIVE_ERROR[work.dtype] * abs(want), (
        "the check is too short to see a step"
    )
    assert error <= RELATIVE_ERROR[work.dtype], (
        f"{work.name}: loss {got!r}, NumPy has {want!r} (off by {error:.1e})"
    )
    return float(error)


def check_call(work, call, x):
    """Return the largest error of a peer's prediction or Jacobian; AssertionError if it is too large."""
    error = np.abs(call(x) - getattr(work.start(), work.kind)(x)).max()
    assert error < RELATIVE_ERROR[work.dtype], f"{work.name}: off by {error:.1e}"
    return float(error)
