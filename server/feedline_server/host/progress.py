"""How far long work is, on standard error: one line that is written over on a terminal, else a line now and then."""

import sys
import time

SHOW_EVERY_S = 0.5
"""A line that changes faster cannot be read."""

LOG_EVERY_S = 30.0
"""Where nobody looks at a terminal, a line this often shows that it goes on."""


class Progress:
    """Call it with what is done and the whole, as often as you like."""

    def __init__(self, unit: str, about: str = "") -> None:
        self._unit = unit
        self._about = f"{about}: " if about else ""
        self._on_terminal = sys.stderr.isatty()
        self._began = self._shown = time.monotonic()
        self._first: int | None = None
        """What was done already when it began."""

    def __call__(self, done: int, whole: int) -> None:
        """Show it, unless something was shown a moment ago."""
        if self._first is None:
            self._first = done
        now = time.monotonic()
        is_over = done >= whole
        if now - self._shown < (SHOW_EVERY_S if self._on_terminal else LOG_EVERY_S) and not is_over:
            return
        self._shown = now
        new = done - self._first
        left = f", {(whole - done) * (now - self._began) / new:,.0f} s left" if new and not is_over else ""
        text = f"{self._about}{done:,} of {whole:,} {self._unit}{left}"
        if self._on_terminal:
            print(f"\r\x1b[K{text}", end="\n" if is_over else "", file=sys.stderr, flush=True)
        elif not is_over:
            print(text, file=sys.stderr, flush=True)
