"""One connection to one loader."""
