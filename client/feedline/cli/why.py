"""`feedline why`: what holds the trainers of some loaders back, in one sentence for each training.

Every loader is asked what it did over the last minute and what its trainers told it. Nothing is measured here.
"""

import argparse
import json
import sys
from dataclasses import asdict

from feedline.cli.arguments import add_target, credentials
from feedline.cli.inspect import asked, differences
from feedline.connection.credentials import Credentials
from feedline_wire.command_line import Command
from feedline_wire.view import verdicts

EPILOG = """\
For each training that reads from these loaders: what share of the last minute its slowest rank waited, for what, and
one remedy. In the trainer itself `feed.why()` and `sequence.why()` say the same.

examples:
  feedline why loader:50051
  feedline why loader-1:50051,loader-2:50051 --json | jq .waiting_share
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    add_target(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, one object a training")


def run(args: argparse.Namespace) -> int:
    """Ask and print; the exit code."""
    seen, problems = asked(args.target, args.timeout_s, Credentials(**credentials(args)).completed())
    problems += differences(seen)
    for name, verdict in verdicts({one.address: one.status for one in seen}) if seen else ():
        print(
            json.dumps({"training": name, **asdict(verdict)})
            if args.json
            else f"{name}: {verdict}"
            if name
            else verdict
        )
    for problem in problems:
        print(f"feedline why: {problem}", file=sys.stderr)
    return 1 if problems else 0


COMMAND = Command(
    "why",
    "say what holds a training back, and what would help",
    run,
    declare,
    EPILOG,
    ("every loader answered", "one did not, or two serve different data"),
)
