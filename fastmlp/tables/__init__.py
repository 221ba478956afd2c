"""Tables of mixed columns: read, encoded, learned from, and kept in one file with their preprocessing."""
