"""The command line: `feedline COMMAND …`, one module a command.

The law: a command says what it found on standard output, and why it failed in one message on standard error. Exit code
0 is success, 1 a failure that the message explains, 2 wrong usage, 130 Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from feedline.cli import bench, demo, demo_train, inspect, peek, serve, token, verify
from feedline_wire.errors import FeedlineError

EPILOG = """\
a first tour:
  feedline demo                      data, a loader and a trainer on this machine, in under a minute
  feedline serve ./digits            serve a folder of arrays
  feedline inspect ./digits          what would be served of it, and what is wrong with it
  feedline inspect 127.0.0.1:50051   what is served there, to whom, how busy
  feedline verify 127.0.0.1:50051    does every sample come once, and is a batch the same whoever makes it?
  feedline bench 127.0.0.1:50051     how fast it arrives here

`feedline COMMAND --help` explains a command.
exit codes: 0 success, 1 failure (the reason is on standard error), 2 wrong usage, 130 Ctrl-C
"""

COMMANDS = (serve, inspect, peek, verify, bench, token, demo, demo_train)

INTERRUPTED = 130
"""What shells report for a program that Ctrl-C ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = next((word for word in words if not word.startswith("-")), "")
    try:
        return _run(words)
    except FeedlineError as error:
        print(f"feedline {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # `feedline inspect … | head`: nobody reads any more. The interpreter must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(words: list[str]) -> int:
    # Everything after `serve` belongs to the server's own command line, --help too; argparse cannot pass that on.
    if serve.is_servers(words):
        return serve.hand_over(words)
    asked = _parser().parse_args(words)
    code: int = asked.run(asked)
    sys.stdout.flush()  # here, where it is answered if nobody reads any more
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="feedline",
        description="Feed trainers from loader servers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser
