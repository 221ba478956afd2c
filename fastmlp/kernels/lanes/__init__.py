"""Programs that train many small networks at once: each lane of a vector is another network."""
