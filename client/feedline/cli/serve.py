"""`feedline serve`, `feedline convert`, `feedline inspect PATH`: what the server's own program does.

The server is a program of its own in the same distribution. This process is replaced by it, so process id, signals,
descriptors and environment stay what the caller gave, and the client imports nothing of it.
"""

import argparse
import os
import sys
from typing import NoReturn

from feedline_wire.command_line import Command
from feedline_wire.errors import FeedlineError
from feedline_wire.extras import need

PACKAGES = ("grpc_health", "grpc_reflection", "pydantic", "structlog")
"""What the extra `server` brings."""


class NotHere(FeedlineError):
    """A command needs another platform."""


def need_server(*modules: str, extra: str = "server") -> None:
    """Raises NotHere or ExtraMissing unless the server's program, and these modules, can run here."""
    if sys.platform != "linux":
        raise NotHere(
            f"a loader runs on Linux, and this is {sys.platform}: start it in a container (`docker compose up loader`, "
            f"docs/docker.md), in WSL, or on another host; a trainer runs here as it is"
        )
    need((*PACKAGES, *modules), extra=extra)


def become_server(args: argparse.Namespace) -> NoReturn:
    """Run the command line as it was written by the server's program. Raises NotHere or ExtraMissing."""
    need_server()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "feedline_server", *args.words])  # noqa: S606 - our own module


SERVE = Command("serve", "serve a folder, a loader.toml or your own Python to trainers", become_server)
CONVERT = Command("convert", "make .npy columns, which are read where they lie, of other kinds of data", become_server)
