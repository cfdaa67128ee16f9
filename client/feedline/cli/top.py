"""`feedline top`: loaders and the trainers that read from them, live, with the verdict in the last line.

What is shown is made of plain values (`feedline_wire.view`), which `--json` prints; a terminal only lays them out.
"""

import argparse
import json
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feedline.cli.arguments import add_target, credentials, seconds
from feedline.cli.inspect import Seen, asked, differences
from feedline.connection.credentials import Credentials
from feedline_wire.command_line import Command
from feedline_wire.extras import need
from feedline_wire.listing import listed
from feedline_wire.text import duration, many, share, size
from feedline_wire.view import Values, view

if TYPE_CHECKING:
    from rich.console import RenderableType

EPILOG = """\
Loaders: how busy their workers are, memory lent to batches, bytes sent, how long a worker takes for a batch. Trainers:
where they are, and what share of the last minute they waited, mostly for what. The last line is what `feedline why`
says. Keys: s sorts trainers by the next column, j and k choose one, Enter shows all that it waited for, q ends.
Without a terminal, or with --once, it is printed once.

examples:
  feedline top loader-1:50051,loader-2:50051
  feedline top dns:///loaders:50051 --once --json | jq '.trainers[].waiting_share'
"""

SORTS = ("rank", "waiting_share", "samples_per_s", "step")

BAR = 10
"""Characters of a progress bar: eighty columns hold all of a line."""


WIDTH = 120
"""Where there is no terminal that has one: a file, a pipe."""

LONGEST_ADDRESS = 22
"""Of IPv4, with its port and a space: eighty columns hold it and the numbers."""

NOTHING = -1
"""No line is chosen: nobody is there to choose."""


@dataclass(slots=True)
class Choice:
    """What the user has chosen to see."""

    sort: int = 0
    at: int = 0
    """The line chosen among trainers."""
    is_open: bool = False
    """All of that one is shown."""
    has_ended: bool = False

    def press(self, key: str, lines: int) -> None:
        """A key was pressed."""
        match key:
            case "s":
                self.sort = (self.sort + 1) % len(SORTS)
            case "j":
                self.at = min(self.at + 1, max(lines - 1, 0))
            case "k":
                self.at = max(self.at - 1, 0)
            case "\r" | "\n":
                self.is_open = not self.is_open
            case "q" | "\x03":
                self.has_ended = True


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    add_target(parser)
    parser.set_defaults(timeout_s=2.0)  # one that does not answer holds up what is shown of the others
    parser.add_argument("--once", action="store_true", help="print what there is now, and end")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a look")
    parser.add_argument("--every-s", type=seconds, default=2.0, metavar="S", help="between two looks (default 2)")


def run(args: argparse.Namespace) -> int:
    """Look and show until the user ends it; the exit code."""
    secure = Credentials(**credentials(args)).completed()

    def look() -> Values:
        seen, problems = asked(args.target, args.timeout_s, secure)
        found = view({one.address: one.status for one in seen})
        return found | {"problems": [*problems, *differences(seen)], "versions": [*_versions(seen)]}

    if args.json:
        while True:
            print(json.dumps(found := look()), flush=True)
            if args.once:
                return 1 if found["problems"] else 0
            time.sleep(args.every_s)
    need(["rich"], extra="top")
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if args.once or not console.is_terminal:
        console.print(shown(found := look(), Choice(at=NOTHING)))
        return 1 if found["problems"] else 0
    return _live(look, console, args.every_s)


def _versions(seen: Iterable[Seen]) -> Iterator[str]:
    """A sentence for each dataset that a loader serves in several versions."""
    for loader in seen:
        for name in loader.description.datasets:
            newest, *older = (one.fingerprint.hex()[:12] for one in loader.description.versions(name))
            if older:
                before = f"to trainers that began before as {listed(older)}"
                yield f"{loader.address} serves {name} as {newest}, and {before}"


def _live(look: Any, console: Any, every_s: float) -> int:  # noqa: ANN401 - rich is imported where it is used
    from rich.live import Live

    choice, found = Choice(), look()
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while not choice.has_ended:
            live.update(shown(found, choice), refresh=True)
            again = time.monotonic() + every_s
            while not choice.has_ended and (left_s := again - time.monotonic()) > 0:
                if key := pressed(left_s):
                    choice.press(key, len(found["trainers"]))
                    live.update(shown(found, choice), refresh=True)
            found = found if choice.has_ended else look()
    return 1 if found["problems"] else 0


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits for a key for so many seconds; none comes where standard input is no terminal."""
    if not sys.stdin.isatty():
        yield time.sleep
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed(left_s: float) -> str:
        return os.read(fd, 1).decode(errors="replace") if select.select([fd], [], [], left_s)[0] else ""

    try:
        tty.setcbreak(fd)
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


# ---- what is shown ----


def shown(found: Values, choice: Choice) -> "RenderableType":
    """All of it, as wide as the terminal."""
    from rich.console import Group
    from rich.text import Text

    trainers = ordered(found["trainers"], SORTS[choice.sort])
    parts: list[RenderableType] = [_loaders(found["loaders"]), _trainers(trainers, choice)]
    if choice.is_open and trainers:
        parts.append(_waits(trainers[min(choice.at, len(trainers) - 1)]))
    parts += [Text(problem, "red") for problem in found["problems"]]
    parts += [Text(one) for one in found.get("versions", ())]
    parts += [
        Text(f"{one['training']}: {one['sentence']}" if one["training"] else one["sentence"], "bold")
        for one in found["verdicts"]
    ]
    return Group(*parts)


def ordered(trainers: list[Values], by: str) -> list[Values]:
    """Trainers by rank, or those with most of something first."""
    return trainers if by == "rank" else sorted(trainers, key=lambda one: -one[by])


def bar(step: int, steps: int) -> str:
    """How far an epoch is: `####------`."""
    done = round(BAR * (step + 1) / steps) if steps else 0
    return "#" * done + "-" * (BAR - done)


def _table(*columns: str, whole: bool = False) -> Any:  # noqa: ANN401 - rich is imported where it is used
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        left = name in {"loader", "state", "trainer", "for", "lane", "epoch"}
        # Names give way where it is narrow; numbers are whole or of no use, and so are addresses where they can be.
        gives_way = name in {"state", "trainer"} or (name == "loader" and not whole)
        table.add_column(name, justify="left" if left else "right", no_wrap=not gives_way, overflow="fold")
    return table


def _loaders(loaders: list[Values]) -> Any:  # noqa: ANN401 - rich is imported where it is used
    # Columns of faults are there where there are some: without them eighty columns hold an address as well.
    faults = {"bad": "bad_samples", "died": "worker_deaths"}
    faults = {column: name for column, name in faults.items() if any(one[name] for one in loaders)}
    whole = not faults and all(len(one["address"]) < LONGEST_ADDRESS for one in loaders)
    table = _table("loader", "state", "workers", "busy", "memory", "sent", "a batch", *faults, whole=whole)
    for one in loaders:
        table.add_row(
            one["address"],
            one["state"],
            str(one["workers"]),
            share(one["busy"]),
            share(one["arena_lent"] / one["arena_bytes"]) if one["arena_bytes"] else "",
            f"{size(one['bytes_per_s'])}/s",
            f"{1000 * one['batch_s']:.3g} ms",
            *(many(one[name]) for name in faults.values()),
        )
    return table


def _trainers(trainers: list[Values], choice: Choice) -> Any:  # noqa: ANN401 - rich is imported where it is used
    table = _table("trainer", "epoch", "left", "samples/s", "waits", "for", "lane")
    for at, one in enumerate(trainers):
        waits = max(one["waits"], key=one["waits"].get, default="")
        table.add_row(
            f"{one['dataset']}/{one['view']} {one['rank']}/{one['world']}",
            f"{one['epoch']} {bar(one['step'], one['steps'])}",
            "" if one["left_s"] is None else duration(one["left_s"]),
            many(one["samples_per_s"]),
            share(one["waiting_share"]),
            waits,
            one["lane"],
            style="reverse" if at == choice.at else None,
        )
    return table


def _waits(one: Values) -> Any:  # noqa: ANN401 - rich is imported where it is used
    table = _table("for", "of its time")
    for stage, part in sorted(one["waits"].items(), key=lambda item: -item[1]):
        table.add_row(stage, share(part))
    return table


COMMAND = Command(
    "top",
    "watch loaders and trainers, live",
    run,
    declare,
    EPILOG,
    ("ended by the user", "a loader did not answer, or two serve different data"),
)
