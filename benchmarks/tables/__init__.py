"""Learners of tables on public tables: python -m benchmarks.tables."""
