"""Steps of optimisers that read all rows: one file a rule."""
