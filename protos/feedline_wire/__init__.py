"""What trainers and loaders say to each other: keys, tensors, frames, errors.

The law: `loader.proto` is the contract, everything here is byte-compatible with it, and nothing from the wire is ever
unpickled, imported or opened.
"""

PROTOCOL = 2
"""Version of the contract. Raised when an old peer would misunderstand a new one; both sides refuse another number."""

IDS = "__ids__"
"""The column that every batch carries: the sample id (int64) of each row."""

BAD = "__bad__"
"""The column of a dataset that leaves out or replaces samples which cannot be read: int64 of shape (bad samples, 2), a
line each: its row in what the key asked for, its sample id. What was left out is missing in every other array."""
