"""Derivatives of a trained network: by its inputs, by its parameters, and what follows from them."""
