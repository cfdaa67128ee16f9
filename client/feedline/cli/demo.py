"""`feedline demo`: real digits, a loader, and a trainer in another process, all on this machine.

However the demo ends, its processes end with it: by `with`, and by the kernel where this process is killed. Only a
kill -9 leaves the temporary folder behind.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from feedline.cli.arguments import positive
from feedline.cli.demo_train import CODES, EPOCHS
from feedline.local.loaders import serve
from feedline.local.server import need_server
from feedline_wire.command_line import Command
from feedline_wire.errors import FeedlineError

EPILOG = """\
What it does:
  1. writes scikit-learn's 1,797 handwritten digits as .npy files    python -m feedline_server demo-data FOLDER
  2. starts a loader on a free port                                  feedline serve FOLDER --listen 127.0.0.1:0
  3. trains a small Keras model from it in another process           feedline demo-train HOST:PORT
and prints the validation accuracy, the samples per second and the share of time that the trainer waited.

examples:
  feedline demo
  feedline demo --folder ./digits      keep the data, to look at and to serve: feedline serve ./digits
"""

STOP_S = 5.0
"""From SIGTERM to a child until it is killed."""

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
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # what nohup switched off stays switched off
            signal.signal(number, _leave)
    with contextlib.ExitStack() as ending:
        folder = args.folder or Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="feedline-")), "digits")
        _show("writing the digits")
        with _started("feedline_server", "demo-data", str(folder), stdout=subprocess.DEVNULL) as writer:
            if code := writer.wait():
                raise FeedlineError(f"writing the digits to {folder} failed with exit code {code}; the reason is above")
        _show(f"starting a loader: feedline serve {folder}")
        address = ending.enter_context(serve(folder))
        _show(f"training from it in another process: feedline demo-train {address}")
        with _started("feedline", "demo-train", address, "--epochs", str(args.epochs)) as trainer:
            code = trainer.wait()
    if args.folder is not None:
        activate = "" if os.environ.get("VIRTUAL_ENV") == sys.prefix else f"source {sys.prefix}/bin/activate; "
        _show(f"the digits are kept in {folder}; serve them yourself with: {activate}feedline serve {folder}")
    return code


@contextlib.contextmanager
def _started(*words: str, stdout: int | None = None) -> Iterator["subprocess.Popen[str]"]:
    """`python -m WORDS …`, ended when the context ends. In a session of its own: Ctrl-C is answered here, once."""
    command = [sys.executable, "-c", TIED, str(os.getpid()), *words]
    with subprocess.Popen(  # noqa: S603 - our own modules
        command, stdin=subprocess.DEVNULL, stdout=stdout, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave through the `with` statements, as Ctrl-C does."""
    sys.exit(128 + number)


def _show(text: str) -> None:
    print(f"== {text}", flush=True)


COMMAND = Command("demo", "show all of it on this machine: data, a loader, a trainer", run, declare, EPILOG, CODES)
