"""Frozen descriptions of networks and optimisers, and their layout in memory."""
