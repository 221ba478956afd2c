"""The compiled program as templates, and the program's call record."""
