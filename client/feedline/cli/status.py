"""`feedline status`: a fleet that `feedline up` started: its loaders, and whether they feed."""

import argparse
import sys

from feedline.cli import engines
from feedline.cli.arguments import add_connection, credentials
from feedline.cli.inspect import asked, differences
from feedline.connection.credentials import Credentials
from feedline_wire.command_line import Command
from feedline_wire.errors import InvalidRequest
from feedline_wire.text import counted, many, share, size
from feedline_wire.view import Values, view

EPILOG = """\
Of each loader: workers and how busy they were over the last minute, trainers, what it sent; of each trainer what share
of the time it waited. The last line is what `feedline why` says. `feedline top TARGET` shows it live.

examples:
  feedline status
  feedline status digits
  feedline status digits --on ray
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    engines.add_name(parser, or_all="which fleets there are on this host")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Look and print; the exit code."""
    if args.name is None:
        return _all_here(args.on)
    running = engines.find(args.name, args.on)
    print(running.described)
    if not running.target:
        print(f"feedline status: no loader of {args.name} serves", file=sys.stderr)
        return 1
    print(f"target: {running.target}")
    seen, problems = asked(running.target, args.timeout_s, Credentials(**credentials(args)).completed())
    print("\n".join(_lines(view({one.address: one.status for one in seen}))))
    problems += differences(seen)
    for problem in problems:
        print(f"feedline status: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _all_here(on: str | None) -> int:
    if on == "ray":
        raise InvalidRequest("--on ray: say which fleet, as `feedline status NAME --on ray`; `ray list actors` has all")
    found = [one for one in engines.all_here() if on in {None, one.engine}]
    for one in found:
        print(one.described)
    if not found:
        print("there is no fleet on this host; `feedline up NAME PATH` starts one")
    return 0


def _lines(found: Values) -> list[str]:
    lines = [
        f"  {one['address']}: {one['state']}, {counted(one['workers'], 'worker')} {share(one['busy'])} busy, "
        f"{counted(one['trainers'], 'trainer')}, {size(one['bytes_per_s'])}/s, {many(one['batches'])} batches sent"
        for one in found["loaders"]
    ]
    lines += [
        f"  trainer {one['dataset']}/{one['view']} rank {one['rank']} of {one['world']}: epoch {one['epoch']}, "
        f"{many(one['samples_per_s'])} samples/s, waits {share(one['waiting_share'])}"
        for one in found["trainers"]
    ]
    return lines + [one["sentence"] for one in found["verdicts"]]


COMMAND = Command(
    "status",
    "show loaders that `up` started, and whether they feed",
    run,
    declare,
    EPILOG,
    ("every loader answered; without NAME always", "one did not, none serves, or two serve different data"),
)
