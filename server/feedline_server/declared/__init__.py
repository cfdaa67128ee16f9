"""What an operator may say about a dataset, as values; imports nothing of the sources."""
