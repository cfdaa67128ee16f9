"""A loader in memory, for tests of what trains from one: `with serve({"x": x, "y": y}) as loader: …`.

It is a real loader on a real connection, and passes the contract suite that the real one passes (tests/contract). It
fails when the test tells it to, and only then. `local_epochs` gives what a loader serves of an object of your own.
"""

from feedline.testing.loader import FakeLoader, serve
from feedline.testing.local import local_epochs

__all__ = ["FakeLoader", "local_epochs", "serve"]
