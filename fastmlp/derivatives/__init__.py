"""Derivatives of a trained network by inputs and parameters, attributions, error bars."""
