"""Samples that are files: which file holds what, and where it is."""
