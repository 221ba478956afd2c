"""Rows that come block by block: sources, windows, and the training on windows."""
