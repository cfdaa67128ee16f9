"""The main program of the guard: it ends the process groups of a loader's children when the loader is killed.

It is run as a file by a bare Python (`-I -S`), so it imports next to nothing. It reads group numbers from standard
input, negative ones of groups that have ended, and kills what is left of the others at the end of its input.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Guard until the input ends."""
    if os.fork():
        os._exit(0)  # its parent need not reap it, and it is none of the loader's children
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends after the loader, whatever ends that one
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line)
        groups.add(group) if group > 0 else groups.discard(-group)
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
