"""`feedline serve`: becomes the loader server.

The server is a program of its own that happens to be in the same distribution. This process is replaced by it, so
process id, signals, descriptors and environment stay what the caller gave, and the client imports nothing of it.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from feedline.cli.arguments import Commands
from feedline.cli.extras import SERVER, need


def add_to(commands: Commands) -> None:
    """Name the command in `feedline --help`; its own help is the server's."""
    commands.add_parser("serve", help="serve datasets to trainers", add_help=False)


def hand_over(arguments: Sequence[str]) -> NoReturn:
    """Become the server. ExtraMissing if what it needs is not installed."""
    need(SERVER, extra="server")
    sys.stdout.flush()
    sys.stderr.flush()
    words = [sys.executable, "-m", "feedline_server", "serve", *arguments]
    os.execv(sys.executable, words)  # noqa: S606 - our own module; the arguments are the caller's own
