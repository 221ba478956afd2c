"""The target machine, and numbers and vectors that write code."""
