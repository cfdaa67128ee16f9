"""The pool of worker processes, and what the pool and a worker say to each other."""
