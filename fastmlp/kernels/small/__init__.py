"""Programs of single small networks, whose sizes are constants."""
