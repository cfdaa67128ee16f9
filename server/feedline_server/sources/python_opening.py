"""Opening Python objects: workers build them; others ask a process of its own, which looks at them and ends.

The law: the process that speaks gRPC never imports the operator's code. TensorFlow beside gRPC doubles its memory and
its start, a crash or a hang in a module would be the loader's, and Ctrl-C would wait for it. Here a crash is an
error with its traceback, and a hang ends after `start_timeout_s` with the place where it hung.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

import structlog

from feedline_server.declaration import PythonConfig
from feedline_server.environment import ENVIRONMENT
from feedline_server.ragged import Ragged
from feedline_server.sources.python_source import opened
from feedline_server.sources.selection import Selection
from feedline_server.sources.source import Drawn, Opened
from feedline_wire.errors import DataError, FeedlineError, LoaderBroken
from feedline_wire.structure import Structure
from feedline_wire.tensors import Array, Column

SAY_S = 10.0
"""How often a long start is said: an import of TensorFlow takes less, even on a busy machine."""

GRACE_S = 5.0
"""The process ends itself when its time is over; one that cannot even do that is killed so much later."""

PROBE = "feedline_server.sources.python_probe"
"""The process' main module. Not imported: what it sends is named by the modules that both have."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Described:
    """What the process found: a DrawnSource that can say everything about itself, and cannot be read."""

    samples: int
    columns: tuple[Column, ...]
    longest: Mapping[str, int]
    parts: tuple[bytes, ...]
    """Of `content`."""

    def draw(self, drawn: Drawn) -> dict[str, Array | Ragged]:
        """Never asked: only workers read."""
        raise LoaderBroken(
            f"{len(drawn.ids)} samples of a Python object were asked of a process that only describes it"
        )

    def content(self) -> Iterator[bytes]:
        """See DrawnSource."""
        yield from self.parts


@dataclass(frozen=True, slots=True)
class Answer:
    """From the process: what it found, all but what cannot be sent."""

    source: Described
    views: dict[str, Selection]
    notes: tuple[str, ...]
    is_batched: bool
    is_stream: bool
    structure: Structure | None


def open_python(config: PythonConfig, *, checked: bool = False) -> Opened:
    """The objects as a source; `checked` is for workers, who read them: others get a description of them."""
    if checked:
        return opened(config)
    answer = _asked(config)
    return Opened(
        answer.source,
        answer.views,
        answer.notes,
        is_batched=answer.is_batched,
        is_stream=answer.is_stream,
        structure=answer.structure,
    )


def _asked(config: PythonConfig) -> Answer:
    ours, theirs = socket.socketpair()
    with os.fdopen(os.memfd_create("feedline-traceback"), "r+b") as report, Connection(ours.detach()) as connection:
        with theirs:
            descriptors = (theirs.fileno(), report.fileno())
            process = subprocess.Popen(  # noqa: S603 - our own module, with numbers
                [sys.executable, "-m", PROBE, *map(str, descriptors), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                env=ENVIRONMENT | dict(os.environ),
            )
        try:
            connection.send_bytes(config.model_dump_json().encode())
            found = _waited_for(connection, config)
        except (EOFError, ConnectionError):
            found = _why_it_ended(config, process.wait(), report)
        finally:
            process.kill()
            process.wait()
    if isinstance(found, FeedlineError):
        raise found
    return found


def _waited_for(connection: "Connection[Any, Any]", config: PythonConfig) -> Answer | FeedlineError:
    started = time.monotonic()
    objects = ", ".join(config.objects.values())
    while (waited_s := time.monotonic() - started) < config.start_timeout_s + GRACE_S:
        if connection.poll(min(SAY_S, config.start_timeout_s + GRACE_S - waited_s)):
            found: Answer | FeedlineError = connection.recv()
            return found
        log.info("waiting for the dataset's Python to start", objects=objects, waited_s=round(waited_s + SAY_S))
    return _hung(config, "")


def _why_it_ended(config: PythonConfig, code: int, report: BinaryIO) -> DataError:
    report.seek(0)
    text = report.read().decode(errors="replace")
    if code == 1 and text.startswith("Timeout"):
        return _hung(config, text)
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return DataError(
        f"{', '.join(config.objects.values())}: the process that imports and builds it ended {how}; run "
        f"`python -c 'import {_module(config)}'` in {config.path} to see it alone",
        traceback=text,
    )


def _hung(config: PythonConfig, text: str) -> DataError:
    return DataError(
        f"{', '.join(config.objects.values())}: importing and building it took longer than "
        f"{config.start_timeout_s:g} s and was given up; make it quicker, or raise start_timeout_s in loader.toml",
        traceback=text,
    )


def _module(config: PythonConfig) -> str:
    return next(iter(config.objects.values())).partition(":")[0]
