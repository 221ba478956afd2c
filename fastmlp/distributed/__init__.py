"""One training by several processes, each with rows of its own, which sum their gradients."""
