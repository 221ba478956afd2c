"""A model in the formats of other programs, and back, with a file for each format."""
