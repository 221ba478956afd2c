"""What gives rows block by block, as one thing that can be walked again and again: one file a kind."""
