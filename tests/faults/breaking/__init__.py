"""Real loaders and trainers that are broken on purpose, and what must hold of them afterwards.

The law: whatever happens to a process, a line or a disk, what trainers recorded is compared batch by batch with an
undisturbed run, and when all is over nothing is left.
"""
