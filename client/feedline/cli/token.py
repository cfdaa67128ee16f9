"""`feedline token`: makes a token, for a trainer's file and the loader's.

The law: the token itself is written to one file that only its owner can read, and nowhere else: what the loader gets is
its SHA-256, which lets nobody in.
"""

import argparse
import hashlib
import os
import re
import secrets
import sys
from pathlib import Path

from feedline.cli.arguments import Commands, add_command
from feedline_wire.errors import InvalidRequest

EPILOG = """\
Standard output is the entry for the loader's tokens file, which a running loader reads again when it changes. The token
goes into FILE, which must not exist and which only you can read; give it to the trainer as token_file= or
FEEDLINE_TOKEN_FILE.

examples:
  feedline token alice --into alice.token >> tokens.toml
  feedline token ci --into ci.token --datasets digits,scans >> tokens.toml      for these datasets only

exit codes: 0 made, 1 failure (the reason is on standard error), 2 wrong usage
"""

RANDOM_NBYTES = 32
"""256 bits: nobody guesses them, so a fast hash without salt keeps them as well as a slow one would."""

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def add_to(commands: Commands) -> None:
    """Declare the command."""
    token = add_command(commands, "token", "make a token, that a loader lets a trainer in by", epilog=EPILOG)
    token.add_argument("name", metavar="NAME", help="whose it is; the loader's log says it")
    token.add_argument("--into", required=True, type=Path, metavar="FILE", help="where the token is written")
    token.add_argument("--datasets", metavar="NAMES", help="with commas; default: all that are served")
    token.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Make it."""
    datasets = None if asked.datasets is None else [name.strip() for name in asked.datasets.split(",")]
    for name in (asked.name, *(datasets or ())):
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"{name!r} is no name: letters, digits, '.', '_' and '-'")
    token = secrets.token_urlsafe(RANDOM_NBYTES)
    try:
        # Not Path.write_text: it would be readable by everybody for a moment, and go into whatever is there already.
        file = os.open(asked.into, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InvalidRequest(f"{asked.into}: cannot be made ({error.strerror})") from error
    with os.fdopen(file, "w") as out:
        out.write(token + "\n")
    print(entry(asked.name, token, datasets), end="")
    print(f"the token is in {asked.into}; what is above is for the loader's tokens file", file=sys.stderr)
    return 0


def entry(name: str, token: str, datasets: list[str] | None) -> str:
    """The token as it stands in the loader's tokens file."""
    only = "" if datasets is None else "datasets = [{}]\n".format(", ".join(f'"{dataset}"' for dataset in datasets))
    # Quoted: a name with a dot would else be a table in a table.
    return f'["{name}"]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n{only}\n'
