"""Joining templates with a variant's functions, compiling, and machine code on disk."""
