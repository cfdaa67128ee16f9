"""A trainer in a process of its own: reads epoch after epoch, records every batch, resumes where its record ends.

Usage: python -m breaking.trainer SPEC, a JSON object (`Spec`). A line on standard output for every batch. `last` on
standard input ends it after the epoch it is in; the end of standard input ends it at once.
"""

import json
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import feedline
from breaking import record


@dataclass(frozen=True, slots=True)
class Spec:
    """What a trainer is told."""

    record: str
    target: str
    """Addresses with commas between them; or the path of a file of them, read anew whenever the target is resolved."""
    batch_size: int = 16
    seed: int = 0
    pace_s: float = 0.005
    """What it computes between two batches."""
    timeout_s: float = 60.0
    connect: dict[str, Any] = field(default_factory=dict)
    """More for `feedline.connect`."""
    feed: dict[str, Any] = field(default_factory=dict)
    """More for `Loader.feed`."""


class Trainer:
    """One trainer, from its record's end on."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._record = record.Writer(Path(spec.record))
        self._is_last = threading.Event()
        self._asked = 0.0
        threading.Thread(target=self._listen, daemon=True).start()

    def run(self) -> int:
        """Read until told to end; the exit code."""
        began = time.monotonic()
        try:
            with feedline.connect(self._target(), timeout_s=self._spec.timeout_s, **self._spec.connect) as loader:
                self._train(loader)
        except feedline.FeedlineError as error:
            waited_s = time.monotonic() - max(began, self._asked)
            self._record.write("failure", kind=type(error).__name__, text=str(error), after_s=round(waited_s, 3))
            return 3
        return 0

    def _train(self, loader: feedline.Loader) -> None:
        spec = self._spec
        feed = loader.feed(batch_size=spec.batch_size, seed=spec.seed, timeout_s=spec.timeout_s, **spec.feed)
        if self._record.state is not None:
            feed.load_state_dict(self._record.state)
        while True:
            epoch = iter(feed)
            self._asked = time.monotonic()
            while (batch := next(epoch, None)) is not None:
                self._consume(batch, feed, time.monotonic() - self._asked)
                time.sleep(spec.pace_s)
                self._asked = time.monotonic()
            self._look(loader)
            if self._is_last.is_set():
                return

    def _consume(self, batch: feedline.Batch, feed: feedline.Feed, waited_s: float) -> None:
        columns = {name: batch[name] for name in ("x", "y")}
        self._record.write(
            "consumed",
            epoch=batch.epoch,
            index=batch.index,
            ids=batch.ids.tolist(),
            digest=record.digest(columns, batch.ids),
            nbytes=sum(column.nbytes for column in columns.values()),
            waited_s=round(waited_s, 4),
            state=feed.state_dict(),
        )
        sys.stdout.write("\n")
        sys.stdout.flush()

    def _look(self, loader: feedline.Loader) -> None:
        me, stats = psutil.Process(), loader.stats
        names = ("hedged", "retried", "duplicates", "damaged")
        self._record.write(
            "health",
            pid=os.getpid(),
            fds=me.num_fds(),
            rss=me.memory_info().rss,
            threads=me.num_threads(),
            stats={name: getattr(stats, name) for name in names},
        )

    def _target(self) -> Any:
        file = Path(self._spec.target)
        return (lambda: file.read_text().split()) if file.is_absolute() else self._spec.target

    def _listen(self) -> None:
        for line in sys.stdin:
            if line == "last\n":
                self._is_last.set()
        if not self._is_last.is_set():
            os._exit(4)  # the process that started it is gone


def main() -> int:
    """Be one trainer."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    return Trainer(Spec(**json.loads(sys.argv[1]))).run()


if __name__ == "__main__":
    sys.exit(main())
