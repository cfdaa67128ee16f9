"""What trainers and loaders say to each other: keys, tensors, frames, errors.

`loader.proto` is the contract, and everything here is byte-compatible with it. Nothing from the wire is unpickled,
imported or opened.
"""

VERSION = "0.3.0.dev0"
"""Of the package, as in pyproject.toml. To ask importlib.metadata took as long as to import all of feedline."""

PROTOCOL = 3
"""The newest version of the contract that is spoken here. Raised when an older peer would misunderstand a newer one."""

OLDEST_PROTOCOL = 3
"""The oldest. Raised when nothing that speaks it is in use any more."""

IDS = "__ids__"
"""The column that every batch carries: the sample id (int64) of each row."""

BAD = "__bad__"
"""The column of a dataset that leaves out or replaces samples which cannot be read: int64 of shape (bad samples, 2), a
line each: its row in what the key asked for, its sample id. What was left out is missing in every other array."""
