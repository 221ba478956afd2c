"""Tables whose columns are named, and collections of Dask's: which package an input comes from decides."""

from __future__ import annotations

from typing import Any

from fastmlp.training.sources.blocks import Source


def is_table(X: object) -> bool:
    """Return whether it is of a package whose tables and collections train; none is imported for that."""
    return _package(X) in ("pyarrow", "dask")


def _package(X: object) -> str:
    return type(X).__module__.partition(".")[0]


def table_source(what: str, X: Any, y: Any, weights: Any) -> Source | None:
    """Return what gives the rows of a table of Arrow's or a collection of Dask's, None for anything else.

    The package of such an object has been imported already; for all others none is.
    """
    package = _package(X)
    if package == "pyarrow":
        from fastmlp.training.sources.arrow import arrow_source

        return arrow_source(what, X, y, weights)
    if package == "dask":
        from fastmlp.training.sources.dask import dask_source

        return dask_source(what, X, y, weights)
    return None
