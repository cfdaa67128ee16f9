"""A trainer without a model, in a process of its own: it takes batches, checks them, and drops them.

    python -m benchmarks.consumer KIND OPTIONS       KIND: a module of benchmarks/peers; OPTIONS: JSON for it

It is told by a line of JSON on standard input how long to take batches, and answers with a line about it. Between two
lines it takes nothing, and what its loader reads ahead meanwhile is taken, uncounted, before the next stretch counts. A
peer without a loader of its own is stopped (SIGSTOP) together with its worker processes: some read gigabytes ahead,
which would be counted as if they had been read in their turn. It ends with its standard input.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import psutil

from benchmarks.content import Array, Content
from benchmarks.measured import Meter, Pace, Stretch, stretch

ROOT = Path(__file__).resolve().parent.parent

END_S = 20.0
"""A consumer whose input has ended and that is still there by then is killed."""


class Peer(Protocol):
    """What a module of benchmarks/peers is."""

    def batches(self, options: Mapping[str, Any]) -> Iterator[tuple[Array, Array | None]]:
        """Shuffled batches without end, `x` as content.py writes it and `y` if the peer carries labels."""


class MissingError(Exception):
    """The contestant is not installed here, or cannot do this; says what is missing."""


class FailedError(Exception):
    """A consumer ended in the middle. What it printed before says why."""


class Consumer:
    """A consumer's process, seen from the one that compares. Close it, or use it with `with`."""

    def __init__(
        self, kind: str, options: Mapping[str, Any], loader_pids: tuple[int, ...] = (), code: Path | None = None
    ) -> None:
        command = [sys.executable, "-m", "benchmarks.consumer", kind, json.dumps(dict(options) | {"pids": loader_pids})]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=quiet(code)
        )
        self._told: IO[str] = piped(self._process.stdin)
        self._says: IO[str] = piped(self._process.stdout)
        self._is_ready = False
        self._is_local = not loader_pids

    def wait(self) -> None:
        """Until the first batch is here. MissingError if the contestant says that it cannot."""
        if not self._is_ready:
            self._answer()
            self._is_ready = True
            self._signal(signal.SIGSTOP)

    def begin(self, pace: Pace) -> None:
        """Start a stretch; `end` gives it. So that several consumers can run at once."""
        self.wait()
        self._signal(signal.SIGCONT)
        self._told.write(json.dumps(asdict(pace)) + "\n")
        self._told.flush()

    def end(self) -> Stretch:
        """The stretch that was begun. FailedError if there is none."""
        taken = Stretch(**self._answer())
        self._signal(signal.SIGSTOP)
        return taken

    def take(self, pace: Pace) -> Stretch:
        """One stretch."""
        self.begin(pace)
        return self.end()

    def _signal(self, number: signal.Signals) -> None:
        """To the process and all below it, if the peer is local."""
        if not self._is_local:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            me = psutil.Process(self._process.pid)
            for process in [me, *me.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def _answer(self) -> dict[str, Any]:
        line = self._says.readline()
        if not line:
            raise FailedError(f"a consumer ended with code {self._process.wait(END_S)}: {self._process.args!r}")
        said: dict[str, Any] = json.loads(line)
        if "missing" in said:
            raise MissingError(said["missing"])
        return said

    def close(self) -> None:
        self._signal(signal.SIGKILL)  # pools that lose their parent one by one have a lot to say about it
        with contextlib.suppress(BrokenPipeError):
            self._told.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_S)
        self._says.close()

    def __enter__(self) -> "Consumer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def quiet(code: Path | None = None) -> dict[str, str]:
    """The environment of every process: frameworks keep their greetings to themselves and find no GPU.

    `code` is the checkout that feedline is imported from, None: where it is installed.
    """
    rooms = [] if code is None else [str(code / one) for one in ("protos", "server", "client")]
    return os.environ | {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *rooms, os.environ.get("PYTHONPATH")])),
    }


def piped(end: IO[str] | None) -> IO[str]:
    """One of a process that was started with pipes."""
    assert end is not None
    return end


# ---- inside the process ----


def main() -> None:
    # Frameworks print where they please; answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    kind, options = sys.argv[1], json.loads(sys.argv[2])
    try:
        serve(importlib.import_module(f"benchmarks.peers.{kind}"), options, answers)
    except (ImportError, MissingError) as error:
        answers.write(json.dumps({"missing": str(error)}) + "\n")
    # Not by returning: pools of peers may wait for each other, and nothing of this process is worth tidying.
    answers.flush()
    os._exit(0)


def serve(peer: Peer, options: Mapping[str, Any], answers: IO[str]) -> None:
    content = None if options.get("is_unchecked") else Content.of(Path(options["folder"]))
    batches = peer.batches(options)

    def check(batch: tuple[Array, Array | None]) -> tuple[int, int]:
        x, y = batch
        if content is not None:
            content.check(x, y)
        return x.nbytes, len(x)

    check(next(batches))
    answers.write(json.dumps({"ready": True}) + "\n")
    meter = Meter(options["pids"])
    for line in sys.stdin:
        answers.write(json.dumps(asdict(stretch(batches, check, Pace(**json.loads(line)), meter))) + "\n")


if __name__ == "__main__":
    main()
