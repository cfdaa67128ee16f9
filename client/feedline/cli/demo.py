"""`feedline demo`: real digits, a loader, and a trainer in another process, all on this machine.

However the demo ends, its processes end with it: by `with`, and by the kernel where this process is killed. Only a
kill -9 leaves the temporary folder behind.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from feedline.cli.arguments import positive
from feedline.cli.demo_train import EPOCHS
from feedline.cli.serve import need_server
from feedline_wire.command_line import Command
from feedline_wire.errors import FeedlineError, LoaderUnavailable

EPILOG = """\
What it does:
  1. writes scikit-learn's 1,797 handwritten digits as .npy files    python -m feedline_server demo-data FOLDER
  2. starts a loader on a free port                                  feedline serve FOLDER --listen 127.0.0.1:0
  3. trains a small Keras model from it in another process           feedline demo-train HOST:PORT
and prints the validation accuracy, the samples per second and the share of time that the trainer waited.

examples:
  feedline demo
  feedline demo --folder ./digits      keep the data, to look at and to serve: feedline serve ./digits

exit codes: 0 validation accuracy is 95 % or more, 1 it is less or something failed, 130 Ctrl-C
"""

START_S = 60.0
"""A loader opens 1,797 samples in well under a second; a machine this slow has another problem."""

STOP_S = 5.0
"""A child that was asked to end gets this long before it is killed."""

TIED = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])
"""
"""Starts a module that the kernel ends with SIGTERM when this process dies: PR_SET_PDEATHSIG is 1 and outlives exec."""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="keep the data here (default: it is removed)")
    parser.add_argument("--epochs", type=positive, default=EPOCHS, metavar="N", help=f"default {EPOCHS}")


def run(args: argparse.Namespace) -> int:
    """Run the demo; the trainer's exit code."""
    need_server("keras", "sklearn", extra="demo")
    with _signals_unwind(), contextlib.ExitStack() as ending:
        folder = args.folder or Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="feedline-")), "digits")
        _show("writing the digits")
        with _started("feedline_server", "demo-data", str(folder), stdout=subprocess.DEVNULL) as writer:
            if code := writer.wait():
                raise FeedlineError(f"writing the digits to {folder} failed with exit code {code}; the reason is above")
        _show(f"starting a loader: feedline serve {folder}")
        address = ending.enter_context(loader_of(folder))
        _show(f"training from it in another process: feedline demo-train {address}")
        with _started("feedline", "demo-train", address, "--epochs", str(args.epochs)) as trainer:
            code = trainer.wait()
    if args.folder is not None:
        activate = "" if os.environ.get("VIRTUAL_ENV") == sys.prefix else f"source {sys.prefix}/bin/activate; "
        _show(f"the digits are kept in {folder}; serve them yourself with: {activate}feedline serve {folder}")
    return code


@contextlib.contextmanager
def loader_of(folder: Path) -> Iterator[str]:
    """A loader that serves the folder on a free port, as long as the context lasts; its address."""
    words = ("feedline_server", "serve", str(folder), "--listen", "127.0.0.1:0", "--log-format", "json")
    with _started(*words, stderr=subprocess.PIPE) as loader:
        assert loader.stderr is not None, "asked for with PIPE"
        yield _address(loader, loader.stderr)


def _address(loader: "subprocess.Popen[str]", log: IO[str]) -> str:
    """Where the loader listens, read from the event that it logs when it serves."""
    too_late = threading.Timer(START_S, loader.kill)
    too_late.start()
    lines = []
    try:
        for line in log:
            event = _event(line)
            if event.get("event") == "serving":
                # A log that is not read would fill its pipe and stop the loader.
                threading.Thread(target=_pass_on_errors, args=(log,), name="demo-log", daemon=True).start()
                return str(event["address"])
            lines.append(line)
    finally:
        too_late.cancel()
    reason = "".join(lines[-20:]).strip() or "it logged nothing"
    raise LoaderUnavailable(f"the loader ended with exit code {loader.wait()} before it served: {reason}")


def _pass_on_errors(log: IO[str]) -> None:
    with contextlib.suppress(ValueError):  # closed here, at the end
        for line in log:
            if text := complaint(line):
                print(f"loader: {text}", file=sys.stderr)


def complaint(line: str) -> str:
    """What went wrong by a line of the loader's log, in short; empty where the line reports what is normal."""
    event = _event(line)
    if event.get("level", "error") not in {"error", "critical"}:
        return ""
    match event:
        case {"event": what, "exception": [*_, {"exc_type": kind, "exc_value": why}]}:
            return f"{what}: {kind}: {why}"
        case {"event": what}:
            return str(what)
    return line.strip()


def _event(line: str) -> dict[str, object]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


@contextlib.contextmanager
def _started(*words: str, stdout: int | None = None, stderr: int | None = None) -> Iterator["subprocess.Popen[str]"]:
    """`python -m WORDS …`, ended when the context ends. In a session of its own: Ctrl-C is answered here, once."""
    command = [sys.executable, "-c", TIED, str(os.getpid()), *words]
    with subprocess.Popen(  # noqa: S603 - our own modules
        command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """SIGTERM and SIGHUP leave through the `with` statements, as Ctrl-C does."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    # What nohup switched off stays switched off.
    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _show(text: str) -> None:
    print(f"== {text}", flush=True)


COMMAND = Command("demo", "show all of it on this machine: data, a loader, a trainer", run, declare, EPILOG)
