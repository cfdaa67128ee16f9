"""What rows stand on: numbered data, a scale, and contests between consumers.

A row opens what it needs and closes it before the next row begins, so that nothing idles beside a measurement.
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import content
from benchmarks.consumer import Consumer, MissingError
from benchmarks.lines import Bound, Line, side
from benchmarks.measured import Pace, Stretch
from benchmarks.pairs import ratio, rounds


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    pairs: int = 5
    pace: Pace = field(default=Pace(seconds=1.0, settle_s=0.3))
    nbytes: int = 256 << 20
    """Of the samples of a row that says nothing else. More than any cache of a processor; an epoch takes a while."""
    is_quick: bool = False
    """Only whether everything runs. The numbers say nothing."""


QUICK = Scale(pairs=1, pace=Pace(seconds=0.2, settle_s=0.05), nbytes=8 << 20, is_quick=True)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A module of benchmarks/peers with its options, and the processes that work for it."""

    kind: str
    options: Mapping[str, Any]
    loader_pids: tuple[int, ...] = ()
    code: Path | None = None
    """The checkout whose feedline it is, if it is feedline; None: what is installed."""

    def consumer(self, options: Mapping[str, Any]) -> Consumer:
        """A trainer of its own, with these options and the contestant's."""
        return Consumer(self.kind, {**options, **self.options}, self.loader_pids, self.code)


@dataclass(slots=True)
class Outcome:
    """What every contestant took, round by round, and why the others took nothing."""

    taken: dict[str, list[Stretch]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def value(self, name: str, of: Callable[[Stretch], float]) -> float:
        """A contestant's median."""
        return median(map(of, self.taken[name]))

    def faster(self, names: Sequence[str]) -> str:
        """Of several settings of one peer the best; the first if none of them is here."""
        here = [name for name in names if name in self.taken]
        return max(here, key=lambda name: self.value(name, lambda taken: taken.gb_per_s), default=names[0])

    def line(
        self,
        row: int,
        what: str,
        ours: str,
        peer: str,
        *,
        bound: Bound | None,
        unit: str = "GB/s",
        of: Callable[[Stretch], float] = lambda taken: taken.gb_per_s,
    ) -> Line:
        """One contestant divided by another."""
        absent = [f"{name}: {why}" for name, why in self.missing.items() if name in {ours, peer}]
        if absent:
            return Line(row, what, unit, bound=bound, why_not="; ".join(absent))
        a, b = self.taken[ours], self.taken[peer]
        a_values, b_values = [of(taken) for taken in a], [of(taken) for taken in b]
        return Line(row, what, unit, side(ours, a, a_values), side(peer, b, b_values), ratio(a_values, b_values), bound)


@dataclass(slots=True)
class Stage:
    """Where a run of the suite takes place."""

    scratch: Path
    scale: Scale

    def samples(self, row_nbytes: int, nbytes: int | None = None, kind: str = "photographs") -> Path:
        """A folder of numbered samples, written once."""
        rows = max(1, (nbytes if nbytes is not None and not self.scale.is_quick else self.scale.nbytes) // row_nbytes)
        folder = self.scratch / f"{kind}-of-{row_nbytes}-{rows}"
        return folder if folder.exists() else content.write(folder, rows, row_nbytes, kind)

    def contest(
        self, folder: Path, batch: int, contestants: Mapping[str, Contestant], pace: Pace | None = None
    ) -> Outcome:
        """All of them in turn on one folder, in batches of so many rows."""
        outcome = Outcome()
        pace = pace if pace is not None and not self.scale.is_quick else self.scale.pace
        with ExitStack() as running:
            ready: dict[str, Consumer] = {}
            for name, one in contestants.items():
                consumer = running.enter_context(one.consumer({"folder": str(folder), "batch": batch}))
                try:
                    consumer.wait()
                except MissingError as error:
                    outcome.missing[name] = str(error)
                else:
                    ready[name] = consumer
            turns = {name: functools.partial(consumer.take, pace) for name, consumer in ready.items()}
            outcome.taken = rounds(turns, self.scale.pairs)
        for name, taken in outcome.taken.items():
            cpu = f"{median(one.trainer_cpu_s_per_gb for one in taken):.2f}"
            say(f"    {name:<44}{outcome.value(name, lambda one: one.gb_per_s):8.2f} GB/s, trainer {cpu} CPU s/GB")
        return outcome


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)
