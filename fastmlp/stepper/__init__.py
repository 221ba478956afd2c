"""`Stepper`, a step for each call, and the search for a learning rate."""
