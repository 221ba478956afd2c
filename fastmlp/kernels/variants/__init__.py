"""One file, one compiled backend."""
