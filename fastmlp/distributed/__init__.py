"""A training by several processes, which sum gradients or average parameters."""
