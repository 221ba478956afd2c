"""Trainings and models in files."""
