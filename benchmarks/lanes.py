"""The ways on which feedline's batches travel, each as the loader's arguments that leave no other."""

import functools
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.consumer import ROOT, MissingError, quiet
from benchmarks.peers import feedline_loader
from benchmarks.stage import Contestant, Outcome

LANES = ("grpc", "tcp", "shm")

WITHOUT = {"grpc": ("--no-tcp-lane", "--no-shm-lane"), "tcp": ("--no-shm-lane",), "shm": ()}
"""What a loader is told so that its best lane is this one."""


@functools.cache
def flags() -> str:
    """What `feedline serve` understands."""
    command = [sys.executable, "-m", "feedline_server", "serve", "--help"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=quiet()).stdout


def arguments(lane: str) -> tuple[str, ...]:
    """The loader's arguments for a lane; MissingError if this feedline has none."""
    if lane == "shm" and "--no-shm-lane" not in flags():
        raise MissingError("this feedline has no shm lane")
    return tuple(flag for flag in WITHOUT[lane] if flag in flags())


def loader(
    running: ExitStack,
    folder: Path,
    scratch: Path,
    lane: str,
    *more: str,
    within: Sequence[str] = (),
    code: Path | None = None,
) -> tuple[str, int]:
    """A loader whose batches go by that lane: its address and process id. See feedline_loader.serving."""
    serving = feedline_loader.serving(folder, scratch, *arguments(lane), *more, within=within, code=code)
    return running.enter_context(serving)


def contestants(
    running: ExitStack, folder: Path, scratch: Path, lanes: tuple[str, ...] = LANES, **options: Any
) -> dict[str, Contestant]:
    """feedline by each lane that there is, as `feedline, LANE`."""
    there = {}
    for lane in lanes:
        try:
            address, pid = loader(running, folder, scratch, lane)
        except MissingError:
            continue
        there[f"feedline, {lane}"] = Contestant("feedline_loader", {"address": address, **options}, (pid,))
    return there


def absent(outcome: Outcome) -> Outcome:
    """The same, with lanes that do not exist named as missing."""
    for lane in LANES:
        if (name := f"feedline, {lane}") not in outcome.taken:
            outcome.missing.setdefault(name, f"this feedline has no {lane} lane")
    return outcome
