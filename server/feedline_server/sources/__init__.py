"""Kinds of data, one module each; `source` is what they have in common."""
