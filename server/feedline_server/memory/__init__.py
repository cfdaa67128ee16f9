"""Memory that batches are assembled in: the arena, and memory of trainers on this host."""
