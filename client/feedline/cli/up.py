"""`feedline up`: starts a fleet of loaders under a name, on this host, with Docker Compose or on a Ray cluster."""

import argparse
import re
from pathlib import Path

from feedline.cli import engines
from feedline.cli.arguments import add_connection, positive, seconds
from feedline_wire.command_line import Command
from feedline_wire.errors import InvalidRequest

EPILOG = """\
It returns when the loaders serve, and prints the target for trainers; they run on until `feedline down NAME`.
  local     processes on this host, in the background; their log is a file in the user's run directory
  compose   containers of a checkout's docker-compose.yml; a folder is mounted as it is
  ray       actors of the Ray cluster (RAY_ADDRESS, or the one on this host): they come back elsewhere when a node is
            lost, and with --replicas MIN..MAX there are as many as trainers want; the target is ray:NAME
What stands behind -- are options of `feedline serve`. Credentials are for looking at loaders with TLS or tokens; on Ray
they are files on the nodes.

examples:
  feedline up digits ./digits
  feedline up digits ./digits --replicas 2 -- --validation-split 0.2
  feedline up --on ray --replicas 2..16 --workers 8 digits /data/digits
  feedline status digits
  feedline down digits
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("name", metavar="NAME", help="what the fleet is called from now on")
    parser.add_argument(
        "path", metavar="PATH", help="what `feedline serve` takes: a folder, a loader.toml, module:name"
    )
    parser.add_argument("--on", choices=engines.ENGINES, default="local", help="default local")
    parser.add_argument("--replicas", default="1", metavar="N|MIN..MAX", help="loaders (default 1)")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="worker processes of each; CPUs of an actor on Ray"
    )
    parser.add_argument(
        "--start-timeout-s", type=seconds, default=300.0, metavar="S", help="until they serve (default 300)"
    )
    parser.add_argument(
        "--file", type=Path, default=engines.DEFAULT_FILE, metavar="FILE", help=f"default ./{engines.DEFAULT_FILE}"
    )
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Start it and say where it is; the exit code."""
    running = engines.up(args, _replicas(args.replicas))
    print(running.described)
    print(f"trainers: feedline.connect({running.target!r}); look: feedline status {running.name}")
    return 0


def _replicas(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2] or found[1]):
        raise InvalidRequest(f"--replicas: found {text!r}; wanted a number of 1 or more, or MIN..MAX such as 2..16")
    return int(found[1]), int(found[2] or found[1])


COMMAND = Command(
    "up", "start loaders under a name: on this host, with Compose, on Ray", run, declare, EPILOG, passes_on=True
)
