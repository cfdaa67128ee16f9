"""A loader in memory, for tests of whatever trains from one: `with serve({"x": x, "y": y}) as loader: …`.

The law: it is a real loader on a real connection, and passes the contract suite that the real one passes
(tests/contract); what fails, fails because the test said so.
"""

from feedline.testing.loader import FakeLoader, serve

__all__ = ["FakeLoader", "serve"]
