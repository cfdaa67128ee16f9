"""`feedline serve`, `convert`, `inspect PATH` and `autoscale`: what the server's own programs do.

The server is a program of its own in the same distribution. This process is replaced by it, so process id, signals,
descriptors and environment stay what the caller gave, and the client imports nothing of it.
"""

import argparse
import os
import sys
from functools import partial
from typing import NoReturn

from feedline.local.server import need_server
from feedline_wire.command_line import Command


def become_server(args: argparse.Namespace, program: str = "feedline_server") -> NoReturn:
    """Run the command line as it was written by the server's program. Raises NotHere or ExtraMissing."""
    need_server()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", program, *args.words])  # noqa: S606 - our own module


SERVE = Command("serve", "serve a folder, a loader.toml or your own Python to trainers", become_server)
CONVERT = Command("convert", "make .npy columns, which are read where they lie, of other kinds of data", become_server)
AUTOSCALE = Command(
    "autoscale",
    "say how many loaders trainers need: to KEDA, over HTTP, or once",
    partial(become_server, program="feedline_autoscale"),
)
