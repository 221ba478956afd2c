"""The compiled program as templates, and the record of numbers that it takes."""
