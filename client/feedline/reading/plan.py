"""Which positions of an epoch are whose, step by step.

Pure arithmetic on (samples, batch_size, remainder, rank, world): nothing is asked, nothing is remembered, and step
10^9 costs what step 0 costs. The ranks of a job walk together: at cursor c rank r has the positions [c + r*b, c +
(r+1)*b), then the cursor moves on by world*b. What happens at an epoch's end is the remainder:

    drop    only whole global batches; the rest is left out
    short   the rest is shared out evenly and in order over the ranks; a rank with an empty share has no step
    pad     the last global batch is asked for in full, past the end; its rows past the end are `padding`, weight zero
    wrap    batches lie end to end over all epochs; one belongs to the epoch in which its global batch starts
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Remainder: TypeAlias = Literal["drop", "short", "pad", "wrap"]
REMAINDERS: tuple[str, ...] = get_args(Remainder)

ENDLESS = 2**62
"""Positions of an epoch that never ends: at a million batches a second, the epoch of a hundred thousand years."""


@dataclass(frozen=True, slots=True)
class Step:
    """One batch of one rank. Its positions may lie past the epoch's end, where they are the following epoch's."""

    index: int
    """Number of the global batch in its epoch."""
    epoch: int
    """The epoch it belongs to."""
    offset: int
    """First position."""
    rows: int
    padding: int
    """Trailing rows of weight zero."""
    after: int
    """The job's cursor when this step is done; the view's size or more where the epoch is then complete."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of one rank. Its arguments are checked by `options`."""

    samples: int
    batch_size: int
    remainder: Remainder
    rank: int
    world: int

    @property
    def is_endless(self) -> bool:
        """No epoch of it ends."""
        return self.samples == ENDLESS

    @property
    def stride(self) -> int:
        """Samples of one global batch."""
        return self.world * self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps of this rank in an epoch; under `wrap` some epochs have one less."""
        return self.steps_from(0)

    def steps_in(self, epoch: int) -> int:
        """Steps of this rank in one epoch."""
        return self.steps_from(self.start(epoch))

    def steps_from(self, offset: int) -> int:
        """Steps of this rank from a cursor to the end of its epoch, counted without walking them."""
        whole, rest = divmod(max(self.samples - offset, 0), self.stride)
        match self.remainder:
            case "drop":
                return whole
            case "short":
                return whole + (self._share(rest)[1] > 0)
            case "pad" | "wrap":
                return whole + (rest > 0)

    def start(self, epoch: int) -> int:
        """The cursor at which an epoch starts; not 0 only under `wrap`, where the epochs before it spill over."""
        return -epoch * self.samples % self.stride if self.remainder == "wrap" else 0

    def cursor(self, epoch: int, index: int) -> int:
        """The cursor before the global batch `index` of an epoch."""
        return self.start(epoch) + index * self.stride

    def index(self, cursor: int) -> int:
        """The number of the global batch that starts at, or contains, a cursor."""
        return cursor // self.stride

    def is_over(self, cursor: int) -> bool:
        """No rank has a step from this cursor on."""
        left = self.samples - cursor
        return left <= 0 or (self.remainder == "drop" and left < self.stride)

    def steps(self, epoch: int, offset: int | None = None) -> Iterator[Step]:
        """The steps of an epoch, in order, from a cursor on; None is the epoch's start.

        Any cursor will do: one that was reached with another batch size or world size is simply continued.
        """
        cursor = self.start(epoch) if offset is None else offset
        while (step := self.step_at(epoch, cursor)) is not None:
            yield step
            cursor = step.after

    def step(self, epoch: int, index: int) -> Step:
        """Step `index` of an epoch; IndexError past its end."""
        step = self.step_at(epoch, self.cursor(epoch, index)) if index >= 0 else None
        if step is None:
            raise IndexError(f"epoch {epoch} has {self.steps_in(epoch)} steps, there is no step {index}")
        return step

    def line_step(self, number: int) -> Step:
        """Under `wrap`, batch `number` of the line of all epochs, for whoever needs a fixed number of steps a pass."""
        epoch, cursor = divmod(number * self.stride, self.samples)
        step = self.step_at(epoch, cursor)
        assert step is not None, "a cursor inside an epoch always has a step under wrap"
        return step

    def step_at(self, epoch: int, cursor: int) -> Step | None:
        """The step at a cursor; None if this rank has none there."""
        if self.is_over(cursor):
            return None
        index, end = self.index(cursor), cursor + self.stride
        offset = cursor + self.rank * self.batch_size
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
                skipped, rows = self._share(self.samples - cursor)
                return Step(index, epoch, cursor + skipped, rows, 0, self.samples) if rows else None

    def _share(self, rest: int) -> tuple[int, int]:
        """This rank's part of the last, short global batch: samples before it, and its own."""
        least, larger = divmod(rest, self.world)
        return self.rank * least + min(self.rank, larger), least + (self.rank < larger)
