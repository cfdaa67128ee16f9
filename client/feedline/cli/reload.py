"""`feedline reload`: has a loader on this host open its data anew.

A signal and no call over the network: who trains must not be able to do it.
"""

import argparse
import os
import signal
from pathlib import Path

from feedline_wire.command_line import Command
from feedline_wire.errors import InvalidRequest

EPILOG = """\
The loader opens the data anew, beside what it serves, as a new version with its own fingerprint; its log says which.
Trainers keep the version that they began with, for as long as its files can be read: rename old files away, or put new
ones into a new folder and turn a link; what is overwritten is lost. New trainers get the newest version that every
loader of their target serves.

examples:
  feedline serve loader.toml --pid-file loader.pid &
  mv digits old && mv new digits && feedline reload --pid-file loader.pid
  docker compose kill --signal SIGUSR2 loader        in a container
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--pid", type=int, metavar="PID", help="the loader's process id, as its log says it")
    which.add_argument("--pid-file", type=Path, metavar="FILE", help="what `feedline serve --pid-file FILE` wrote")


def run(args: argparse.Namespace) -> int:
    """Send the signal; the exit code. With --replicas, the process of the command passes it on."""
    pid = _read(args.pid_file) if args.pid is None else args.pid
    # Who is no loader, or has no handler for the signal yet, may be ended by it.
    if not (_is_loader(pid) and _handles(pid)):
        raise InvalidRequest(f"process {pid} is no feedline loader on this host, or one that has only just begun")
    try:
        os.kill(pid, signal.SIGUSR2)
    except PermissionError as error:
        raise InvalidRequest(f"process {pid} belongs to another user; run this as that one") from error
    print(f"process {pid} opens its data anew; its log says what it found")
    return 0


def _read(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{file}: has no process id in it ({error}); wanted what --pid-file wrote") from error


def _is_loader(pid: int) -> bool:
    """Whether it is `feedline serve`: a process id in a file may be another program's by now."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(b"feedline_server" in word for word in words) and b"serve" in words


def _handles(pid: int) -> bool:
    """Whether it has a handler for the signal, by proc_pid_status(5)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")), 0)
    return bool(caught >> (signal.SIGUSR2 - 1) & 1)


COMMAND = Command("reload", "have a loader open its data anew", run, declare, EPILOG)
