"""Descriptions of what is to be trained, frozen and without arrays, and where its numbers lie."""
