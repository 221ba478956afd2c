"""Rows: a user's arrays and blocks, checked; sources, windows, and batches in order."""
