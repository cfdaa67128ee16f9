"""From a key to memory that holds the batch."""
