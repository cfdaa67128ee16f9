"""Numbers, structures and progress as both command lines show them to people."""

import re
import sys
import time
from collections.abc import Callable
from datetime import timedelta

from feedline_wire.structure import Structure

SHOW_EVERY_S = 0.5
"""A line that changes faster cannot be read."""

LONGEST_S = 1000 * 365 * 86400.0
"""Time that is left by the numbers of a trainer that lies."""

LOG_EVERY_S = 30.0
"""Where standard error is no terminal, a line this often shows that the work goes on."""

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.,:-]")


def size(count: float) -> str:
    """Bytes in the largest decimal unit: `1.5 MB`."""
    units = ["TB", "GB", "MB", "kB"]
    if count < 1000:
        return f"{count:.0f} B"
    while (count := count / 1000) >= 999.95 and len(units) > 1:
        units.pop()
    return f"{count:.1f} {units[-1]}"


def many(count: float) -> str:
    """A count with its thousands set apart: `12,345`."""
    return f"{count:,.0f}"


def counted(number: int, what: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Whole seconds as a clock shows them: `1 day, 2:03:04`; of more than a thousand years only that."""
    return str(timedelta(seconds=int(seconds))) if seconds < LONGEST_S else "> 1000 years"


def share(part: float) -> str:
    """A part of one in percent: `3.4 %`."""
    return f"{100 * part:.1f} %"


def plain(text: str, most: int) -> str:
    """A word of a peer's, fit for a label, a terminal and a log: so many characters, `?` for what is no plain one."""
    return _NOT_PLAIN.sub("?", text[:most])


def unpacked(structure: Structure) -> str:
    """What a batch unpacks to, as Python writes it: `({"a": a, "b": b}, y)`."""
    match structure:
        case str():
            return structure
        case dict():
            return "{" + ", ".join(f'"{name}": {unpacked(part)}' for name, part in structure.items()) + "}"
        case _:
            return "(" + ", ".join(map(unpacked, structure)) + ("," if len(structure) == 1 else "") + ")"


class Progress:
    """How far long work is, on standard error: on a terminal one line, written over, else a line now and then."""

    def __init__(self, unit: str, about: str = "") -> None:
        self._unit = unit
        self._about = f"{about}: " if about else ""
        self._on_terminal = sys.stderr.isatty()
        self._began = self._shown = time.monotonic()
        self._first: float | None = None
        """What was done already when it began."""

    def __call__(self, done: float, whole: float, note: Callable[[], str] = str) -> None:
        """Show what is done of the whole, unless something was shown a moment ago; the line goes when all is done.

        `note` makes what stands at the end of the line, and is called only when the line is shown.
        """
        if self._first is None:
            self._first = done
        now = time.monotonic()
        is_over = done >= whole
        if now - self._shown < (SHOW_EVERY_S if self._on_terminal else LOG_EVERY_S) and not is_over:
            return
        self._shown = now
        new = done - self._first
        left = f", {(whole - done) * (now - self._began) / new:,.0f} s left" if new else ""
        text = f"{self._about}{done:,.0f} of {whole:,.0f} {self._unit}{left}"
        if noted := note():
            text += f": {noted}"
        if self._on_terminal:
            sys.stderr.write("\r\x1b[K" + ("" if is_over else text))
        elif not is_over:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
