"""Which trainer's key is assembled next, and in which memory."""
