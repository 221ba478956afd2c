"""Programs of single small networks with constant sizes."""
