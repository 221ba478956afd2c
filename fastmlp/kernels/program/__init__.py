"""The compiled program as templates, and what it is told."""
