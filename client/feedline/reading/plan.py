"""Which positions of an epoch each rank reads, step by step.

Pure arithmetic on (samples, batch_size, remainder, rank, world); it remembers nothing, and step 10^9 costs what step 0
costs. The ranks of a job walk together: from offset c of the job, rank r reads the positions [c + r*b, c + (r+1)*b),
then the job moves on by world*b. What happens at an epoch's end is the remainder:

    drop    only whole global batches; the rest is left out
    short   the rest, or a view that is smaller than a batch, is shared out evenly and in order over the ranks; a rank
            with an empty share has no step
    pad     the last global batch is asked for in full, past the end; its rows past the end are `padding`, weight zero
    wrap    batches lie end to end over all epochs; one belongs to the epoch in which its global batch starts
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias, get_args

Remainder: TypeAlias = Literal["drop", "short", "pad", "wrap"]
REMAINDERS: tuple[str, ...] = get_args(Remainder)

LARGEST = 2**64 - 1
"""Seeds, epochs and offsets are 64 bits on the wire."""

ENDLESS = 2**62
"""Positions of an epoch that never ends: at a million batches a second, the epoch of a hundred thousand years."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a job is: it consumed every position of the epoch before this offset, and every epoch before this one."""

    epoch: int
    offset: int


@dataclass(frozen=True, slots=True)
class Step:
    """One batch of one rank. Its positions may lie past the epoch's end, where they are the following epoch's."""

    index: int
    """Number of the global batch in its epoch, from 0."""
    epoch: int
    """The epoch it belongs to."""
    offset: int
    """First position."""
    rows: int
    """Positions, padding included."""
    padding: int
    """Trailing rows of weight zero."""
    after: int
    """The job's offset when this step is done; the view's size or more where the epoch is then complete."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of one rank. Its arguments are checked by `options`."""

    samples: int
    """Positions of an epoch."""
    batch_size: int
    """Positions of one batch of one rank."""
    remainder: Remainder
    rank: int
    world: int

    @property
    def is_endless(self) -> bool:
        """No epoch of it ends."""
        return self.samples == ENDLESS

    @property
    def stride(self) -> int:
        """Positions of one global batch."""
        return self.world * self.batch_size

    @property
    def most_rows(self) -> int:
        """Positions of its largest batch."""
        return min(self.batch_size, self.samples) if self.remainder == "short" else self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps of this rank in an epoch; under `wrap` some epochs have one less."""
        return self.steps_from(0)

    def steps_in(self, epoch: int) -> int:
        """Steps of this rank in one epoch."""
        return self.steps_from(self.start(epoch))

    def steps_from(self, offset: int) -> int:
        """Steps of this rank from the job's offset to the end of its epoch, counted without walking them."""
        whole, rest = divmod(max(self.samples - offset, 0), self.stride)
        match self.remainder:
            case "drop":
                return whole
            case "short":
                return whole + (self._share(rest)[1] > 0)
            case "pad" | "wrap":
                return whole + (rest > 0)

    def start(self, epoch: int) -> int:
        """The offset at which an epoch starts; not 0 only under `wrap`, where the epochs before it spill over."""
        return -epoch * self.samples % self.stride if self.remainder == "wrap" else 0

    def cursor(self, epoch: int, index: int) -> Cursor:
        """The place before the global batch `index` of an epoch."""
        return Cursor(epoch, self.start(epoch) + index * self.stride)

    def settled(self, cursor: Cursor) -> Cursor:
        """The same place, counted in the epoch that goes on there: the end of an epoch is the start of the next one."""
        further, offset = divmod(cursor.offset, self.samples)
        epoch = cursor.epoch + further
        return Cursor(epoch + 1, 0) if self.is_over(offset) else Cursor(epoch, offset)

    def next_epoch(self, cursor: Cursor) -> Cursor:
        """The place where the epoch of this place is over for all ranks."""
        left = self.steps_from(cursor.offset) * self.stride if self.remainder == "wrap" else 0
        return self.settled(Cursor(cursor.epoch, max(cursor.offset + left, self.samples)))

    def index(self, offset: int) -> int:
        """The number of the global batch that starts at, or contains, the job's offset."""
        return offset // self.stride

    def is_over(self, offset: int) -> bool:
        """No rank has a step from this offset on."""
        left = self.samples - offset
        return left <= 0 or (self.remainder == "drop" and left < self.stride)

    def steps(self, epoch: int, offset: int | None = None) -> Iterator[Step]:
        """The steps of an epoch, in order, from the job's offset on; None is the epoch's start.

        Any offset will do: one that was reached with another batch size or world size is simply continued.
        """
        at = self.start(epoch) if offset is None else offset
        while (step := self.step_at(epoch, at)) is not None:
            yield step
            at = step.after

    def step(self, epoch: int, index: int) -> Step:
        """Step `index` of an epoch. Raises IndexError past its end."""
        step = self.step_at(epoch, self.cursor(epoch, index).offset) if index >= 0 else None
        if step is None:
            raise IndexError(f"epoch {epoch} has {self.steps_in(epoch)} steps, there is no step {index}")
        return step

    def step_at(self, epoch: int, at: int) -> Step | None:
        """The step from the job's offset `at`; None if this rank has none there."""
        if self.is_over(at):
            return None
        stride = self.world * self.batch_size
        index, end = at // stride, at + stride
        offset = at + self.rank * self.batch_size
        match self.remainder:
            case "wrap":
                return Step(index, epoch, offset, self.batch_size, 0, end)
            case "pad":
                past = min(max(offset + self.batch_size - self.samples, 0), self.batch_size)
                return Step(index, epoch, offset, self.batch_size, past, min(end, self.samples))
            case "drop":
                return Step(index, epoch, offset, self.batch_size, 0, self.samples if self.is_over(end) else end)
            case "short":
                if end <= self.samples:
                    return Step(index, epoch, offset, self.batch_size, 0, end)
                skipped, rows = self._share(self.samples - at)
                return Step(index, epoch, at + skipped, rows, 0, self.samples) if rows else None

    # ---- over the epochs' ends ----

    def step_after(self, cursor: Cursor, steps: int) -> Step:
        """The step that begins so many global batches behind a place: under `wrap` over epochs' ends, else within one.

        Raises IndexError if the epoch has none there.
        """
        epoch, at = cursor.epoch, cursor.offset + steps * self.stride
        if self.remainder == "wrap":
            further, at = divmod(at, self.samples)
            epoch += further
        step = self.step_at(epoch, at)
        if step is None:
            raise IndexError(f"epoch {epoch} has no step at {at} of {self.samples}")
        return step

    def onward(self, cursor: Cursor) -> Iterator[Step]:
        """The steps from a place on, epoch after epoch. Ends only for a rank that has no step in any epoch."""
        epoch, at = cursor.epoch, cursor.offset
        while epoch <= LARGEST and self.steps_per_epoch:
            for step in self.steps(epoch, at):
                yield step
                at = step.after
            # A rank without a share of the last, short batch is done before the job is.
            epoch, at = (epoch + at // self.samples, at % self.samples) if self.remainder == "wrap" else (epoch + 1, 0)

    def _share(self, rest: int) -> tuple[int, int]:
        """This rank's part of the last, short global batch: samples before it, and its own."""
        least, larger = divmod(rest, self.world)
        return self.rank * least + min(self.rank, larger), least + (self.rank < larger)


@dataclass(frozen=True, slots=True)
class EveryNth(Iterable[Step]):
    """Steps of an epoch from an offset on, or from its start: number `first`, and each `distance` behind it."""

    plan: Plan
    epoch: int
    offset: int | None
    first: int
    distance: int

    def __iter__(self) -> Iterator[Step]:
        return islice(self.plan.steps(self.epoch, self.offset), self.first, None, self.distance)
