"""The kind `python`: objects of the operator's own code, which workers build and which are described to others."""

from feedline_server.sources.python.object_source import opened
from feedline_server.sources.python.process import described

__all__ = ["described", "opened"]
