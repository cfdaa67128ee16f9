"""A loader in memory, for tests of what trains from one: `with serve({"x": x, "y": y}) as loader: …`.

It is a real loader on a real connection, and passes the contract suite that the real one passes (tests/contract). It
fails when the test tells it to, and only then.
"""

from feedline.testing.loader import FakeLoader, serve

__all__ = ["FakeLoader", "serve"]
