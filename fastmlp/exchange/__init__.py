"""A model in the formats of other programs, and back: one file a format."""
