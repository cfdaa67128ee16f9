"""`feedline token`: makes a token, for a trainer's file and the loader's.

The token itself is written to one file that only its owner can read. The loader gets its SHA-256, which opens nothing.
"""

import argparse
import hashlib
import os
import re
import secrets
import sys
from pathlib import Path

from feedline_wire.command_line import Command
from feedline_wire.errors import InvalidRequest

EPILOG = """\
Standard output is the entry for the loader's tokens file, which a running loader reads again when it changes. The token
goes into FILE, which must not exist and which only you can read; give it to the trainer as token_file= or
FEEDLINE_TOKEN_FILE.

examples:
  feedline token alice --into alice.token >> tokens.toml
  feedline token ci --into ci.token --datasets digits,scans >> tokens.toml      for these datasets only
"""

RANDOM_NBYTES = 32
"""256 bits cannot be guessed, so a fast hash without salt keeps them as well as a slow one would."""

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("name", metavar="NAME", help="whose it is; the loader's log says it")
    parser.add_argument("--into", required=True, type=Path, metavar="FILE", help="where the token is written")
    parser.add_argument("--datasets", metavar="NAMES", help="with commas; default: all that are served")


def run(args: argparse.Namespace) -> int:
    """Make the token; the exit code."""
    datasets = None if args.datasets is None else [name.strip() for name in args.datasets.split(",")]
    for name in (args.name, *(datasets or ())):
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"{name!r} is no name: letters, digits, '.', '_' and '-'")
    token = secrets.token_urlsafe(RANDOM_NBYTES)
    try:
        # Not Path.write_text: it would be readable by everybody for a moment, and go into whatever is there already.
        file = os.open(args.into, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InvalidRequest(f"{args.into}: cannot be made ({error.strerror})") from error
    with os.fdopen(file, "w") as out:
        out.write(token + "\n")
    print(entry(args.name, token, datasets), end="")
    print(f"the token is in {args.into}; what is above is for the loader's tokens file", file=sys.stderr)
    return 0


def entry(name: str, token: str, datasets: list[str] | None) -> str:
    """The token as it stands in the loader's tokens file."""
    only = "" if datasets is None else "datasets = [{}]\n".format(", ".join(f'"{dataset}"' for dataset in datasets))
    # Quoted: a name with a dot would else be a table in a table.
    return f'["{name}"]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n{only}\n'


COMMAND = Command("token", "make a token that lets a trainer in", run, declare, EPILOG)
