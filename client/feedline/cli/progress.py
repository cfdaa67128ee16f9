"""One line of progress that is written over again, if somebody is looking."""

import sys
from collections.abc import Callable


def reporter() -> Callable[[str], None]:
    """Shows a text in place of the one before; the empty text leaves nothing behind. Silent but on a terminal."""
    return _show if sys.stderr.isatty() else _silence


def _show(text: str) -> None:
    print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _silence(_text: str) -> None:
    """Nobody is looking."""
