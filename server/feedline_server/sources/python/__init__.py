"""The operator's own Python objects as datasets."""
