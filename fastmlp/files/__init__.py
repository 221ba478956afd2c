"""The file format of models and trainings."""
