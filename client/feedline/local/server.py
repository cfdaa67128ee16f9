"""Whether the loader's program can run here. It is a program of its own: the client imports nothing of it."""

import sys

from feedline_wire.errors import FeedlineError
from feedline_wire.extras import need

PACKAGES = ("grpc_health", "grpc_reflection", "pydantic", "structlog")
"""What the extra `server` brings."""


class NotHere(FeedlineError):
    """A loader needs another platform."""


def need_server(*modules: str, extra: str = "server") -> None:
    """Raises NotHere or ExtraMissing unless the server's program, and these modules, can run here."""
    if sys.platform != "linux":
        raise NotHere(
            f"a loader runs on Linux, and this is {sys.platform}: start it in a container (`docker compose up loader`, "
            f"docs/docker.md), in WSL, or on another host; a trainer runs here as it is"
        )
    need((*PACKAGES, *modules), extra=extra)
