"""Rows: from what a user passes to arrays, sources, windows, and batches in their order."""
