"""Steps of optimisers on all rows."""
