"""From a target to batches in order: the loader, its feeds, their state."""
