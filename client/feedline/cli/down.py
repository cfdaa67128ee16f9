"""`feedline down`: ends a fleet that `feedline up` started."""

import argparse

from feedline.cli import engines
from feedline.cli.arguments import seconds
from feedline_wire.command_line import Command

EPILOG = """\
Loaders finish what is being assembled and let trainers move on; one that does not end in time is killed.

examples:
  feedline down digits
  feedline down digits --on ray
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    engines.add_name(parser)
    parser.add_argument("--timeout-s", type=seconds, default=60.0, metavar="S", help="until it is killed (default 60)")


def run(args: argparse.Namespace) -> int:
    """End it; the exit code."""
    running = engines.find(args.name, args.on)
    was_running = running.stop(args.timeout_s)
    print(f"{running.engine} fleet {args.name}: {'ended' if was_running else 'it had ended already; forgotten'}")
    return 0


COMMAND = Command("down", "end loaders that `up` started", run, declare, EPILOG)
