"""Real loaders and trainers that are broken on purpose, and what must hold of them afterwards.

What trainers recorded is compared batch by batch with an undisturbed run, whatever happened to a process, a line or a
disk. When all is over nothing is left.
"""
