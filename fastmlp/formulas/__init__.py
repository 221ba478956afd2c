"""Formulas, each written once: for every kind of number that has the operators of `numbers`."""
