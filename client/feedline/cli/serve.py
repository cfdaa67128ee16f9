"""What the server's own program does: `feedline serve`, `feedline convert`, `feedline inspect PATH`.

The server is a program of its own that happens to be in the same distribution. This process is replaced by it, so
process id, signals, descriptors and environment stay what the caller gave, and the client imports nothing of it.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from feedline.cli.arguments import Commands
from feedline.cli.extras import need_server

_ADDRESS = re.compile(r".*:\d+|dns:.*")
"""`host:port`, several of them, or a name to be looked up."""


def add_to(commands: Commands) -> None:
    """Name the commands in `feedline --help`; their own help is the server's."""
    commands.add_parser("serve", help="serve datasets to trainers", add_help=False)
    commands.add_parser("convert", help="make columns of other kinds of data", add_help=False)


def is_servers(words: Sequence[str]) -> bool:
    """Whether a command line is the server's: all that is about data on this host and not about a loader."""
    if words[:1] == ["inspect"]:
        plain = [word for word in words[1:] if not word.startswith("-")]
        # Where there is an address, paths are those of tokens and certificates.
        return not any(map(_ADDRESS.fullmatch, plain)) and any(map(_is_data, plain))
    return words[:1] in (["serve"], ["convert"])


def hand_over(words: Sequence[str]) -> NoReturn:
    """Become the server. NotHere or ExtraMissing where that cannot be."""
    need_server(extra="server")
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = [sys.executable, "-m", "feedline_server", *words]
    os.execv(sys.executable, arguments)  # noqa: S606 - our own module; the arguments are the caller's own


def _is_data(word: str) -> bool:
    """A path or `module:name`, and no `host:port`."""
    module, colon, name = word.partition(":")
    is_object = bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))
    return is_object or word.startswith((".", "/", "~")) or word.endswith(".toml") or Path(word).exists()
