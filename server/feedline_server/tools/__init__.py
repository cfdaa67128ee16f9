"""The commands that work on a dataset without serving it."""
