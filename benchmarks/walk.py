"""The walk of one batch: what it enters between the trainer's `next()` and the batch, in all processes.

A loader with one worker and a trainer run for real, with a profile hook in each of their threads. The trainer's window
is full and all threads rest; then the trainer takes one batch, which makes room for one key, and everything that runs
until all threads rest again is the way of a batch. This is repeated, and what most steps entered is counted, so timers
are left out. Counted are the functions of feedline, lambdas and comprehensions included (Python 3.11; later versions
inline comprehensions and count fewer), without generated code.
"""

import argparse
import mmap
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

LANES = ("tcp", "grpc", "shm")

WARM_UP = 8
"""Batches taken before the first that is looked at."""

STEPS = 15
USUAL = 0.6
"""Share of the steps: what fewer of them entered is not the batch's."""

REST_S = 0.25
"""A batch takes some 20 ms with the hooks; after this all threads rest."""

BATCH_SIZE, ROW_NBYTES = 256, 1024
"""Rows shorter than those that are sent straight from files, so that a worker assembles the batch."""

SWITCH = "FEEDLINE_WALK"
"""The folder where the hooks write; its file `step` holds the number of the step, 0 between two."""

HOOK = f"""
import os
folder = os.environ.get("{SWITCH}")
if folder:
    import mmap, sys, threading, time
    step = mmap.mmap(os.open(folder + "/step", os.O_RDWR), 1)
    out = os.open(f"{{folder}}/{{os.getpid()}}.calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    def hook(frame, event, arg):
        if event == "call" and step[0]:
            code = frame.f_code
            if "feedline" in code.co_filename:
                thread = threading.current_thread()
                who = (os.getpid(), thread.ident, thread.name)
                call = (step[0], time.monotonic_ns(), *who, code.co_filename, code.co_qualname)
                os.write(out, ("\\t".join(map(str, call)) + "\\n").encode())
    threading.setprofile(hook)
    sys.setprofile(hook)
"""
"""Runs as `sitecustomize`: the loader's workers have it too."""

OURS = re.compile(r".*/(?:client|server|protos)/(feedline(?:_server|_wire)?/(?!.*_pb2).+\.py)$")


class Place(NamedTuple):
    """A function that was entered."""

    file: str
    name: str


class Thread(NamedTuple):
    """A thread that was entered."""

    process: int
    ident: int
    name: str


@dataclass(frozen=True)
class Walk:
    """What a batch enters: by thread, in the order it comes to them."""

    entered: dict[Thread, list[Place]]
    process_of: dict[int, str]

    @property
    def handovers(self) -> int:
        """From each thread to the next, from the last to the trainer, and from a worker back to its pool."""
        return len(self.entered) + list(self.process_of.values()).count("worker")

    @property
    def functions(self) -> set[Place]:
        return {place for places in self.entered.values() for place in places}

    @property
    def files(self) -> Counter[str]:
        """How many functions of each."""
        return Counter(place.file for place in self.functions)

    def __str__(self) -> str:
        lines = [f"{len(self.files)} files, {len(self.functions)} functions, {self.handovers} hand-overs", ""]
        for thread, places in self.entered.items():
            lines.append(f"  {self.process_of[thread.process]}, {_plain(thread.name)}")
            by_file: dict[str, list[str]] = defaultdict(list)
            for place in places:
                by_file[place.file].append(place.name)
            lines += [f"    {file}: {', '.join(names)}" for file, names in by_file.items()]
        lines += ["", "  functions by file:", *(f"    {count:3} {file}" for file, count in self.files.most_common())]
        return "\n".join(lines)


def walk(lane: str) -> Walk:
    """Run a loader and a trainer that speak by this lane, and read what their hooks wrote."""
    with tempfile.TemporaryDirectory(prefix="feedline-walk-") as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(HOOK)
        (folder / "step").write_bytes(b"\0")
        with _loader(folder, lane) as address:
            command = [sys.executable, "-m", "benchmarks.walk", "--as-trainer", address, lane]
            subprocess.run(command, env=_environment(folder), check=True)
        return _read(folder)


def _environment(folder: Path) -> dict[str, str]:
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {SWITCH: str(folder), "PYTHONPATH": os.pathsep.join(path)}


@contextmanager
def _loader(folder: Path, lane: str) -> Iterator[str]:
    """A loader with one worker, and beside gRPC that lane alone."""
    data = folder / "data"
    data.mkdir()
    rows = BATCH_SIZE * 100
    np.save(data / "x.npy", np.zeros((rows, ROW_NBYTES), np.uint8))
    np.save(data / "y.npy", np.arange(rows))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    lanes = [f"--no-{other}-lane" for other in ("tcp", "shm") if other != lane]
    options = ("--listen", address, "--workers", "1", "--memory", "256MiB", "--log-level", "warning", *lanes)
    command = [sys.executable, "-m", "feedline_server", "serve", str(data), *options]
    process = subprocess.Popen(command, env=_environment(folder), stdout=sys.stderr)
    try:
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _train(address: str, lane: str) -> None:
    """Take batches one by one, and number the steps."""
    import feedline

    step = mmap.mmap(os.open(f"{os.environ[SWITCH]}/step", os.O_RDWR), 1)
    with feedline.connect(address) as loader:
        batches = iter(loader.epoch(0, batch_size=BATCH_SIZE, prefetch=4))
        for _ in range(WARM_UP):
            next(batches)
            time.sleep(0.05)
        time.sleep(2 * REST_S)
        for number in range(1, STEPS + 1):
            step[0] = number
            next(batches)
            time.sleep(REST_S)
            step[0] = 0
        used = {one.lane for one in loader.stats.replicas}
    assert used == {lane}, f"the batches came by {used}, not by {lane}"


def _read(folder: Path) -> Walk:
    calls: list[tuple[int, int, Thread, Place]] = []
    for path in folder.glob("*.calls"):
        for line in path.read_text().splitlines():
            step, at, pid, ident, thread, file, name = line.split("\t")
            if ours := OURS.match(file):
                place = Place(ours[1], name.replace(".<locals>", ""))
                calls.append((int(step), int(at), Thread(int(pid), int(ident), thread), place))
    calls.sort()
    steps = Counter((thread, place) for _, thread, place in {(step, thread, place) for step, _, thread, place in calls})
    usual = [call for call in calls if steps[call[2:]] >= USUAL * STEPS]
    entered: dict[Thread, dict[Place, None]] = {}
    for _, _, thread, place in (call for call in usual if call[0] == STEPS):
        entered.setdefault(thread, {})[place] = None
    process_of = {thread.process: _process(thread, places) for thread, places in reversed(entered.items())}
    return Walk({thread: list(places) for thread, places in entered.items()}, process_of)


def _process(thread: Thread, places: dict[Place, None]) -> str:
    if next(iter(places)).file.startswith("feedline/"):
        return "trainer"
    return "worker" if thread.name == "MainThread" else "loader"


def _plain(name: str) -> str:
    if name.startswith("Thread-"):
        return "gRPC's thread"
    return (
        "main thread" if name == "MainThread" else "thread " + re.sub(r" [0-9.]+:[0-9]+|_\d+$|feedline[- ]", "", name)
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/walk", description="Prints the walk of one batch.")
    parser.add_argument("lanes", nargs="*", metavar="LANE", help="tcp, grpc, shm (default: all)")
    parser.add_argument("--most", metavar="FILES,FUNCTIONS", help="fail if a walk enters more")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.lanes) - set(LANES):
        parser.error(f"no lane {', '.join(unknown)}; there are {', '.join(LANES)}")
    walks = {lane: walk(lane) for lane in chosen.lanes or LANES}
    for lane, found in walks.items():
        print(f"one batch by {lane}: {found}\n")
    if chosen.most is None:
        return 0
    files, functions = map(int, chosen.most.split(","))
    return int(any(len(found.files) > files or len(found.functions) > functions for found in walks.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-trainer"]:
        _train(*sys.argv[2:4])
    else:
        sys.exit(main(sys.argv[1:]))
