"""One run of Keras' generator: what it asks for, how far it is, and what was read ahead for it and beyond it.

Nothing here waits or locks: passes are changed under the lock of the `Passes` they belong to (keras_passes.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from weakref import ref

from feedline.reading.batch import Batch
from feedline.reading.readahead import ReadAhead


@dataclass(slots=True, eq=False)
class Pass:
    """One run of Keras' generator, and how far it is."""

    frame: FrameType | None
    """The run's identity; None once the run has asked for its last batch."""
    adapter: ref[object] | None
    shuffled: bool
    number: int
    """Of its plan; 0 in dataset order."""
    order: Sequence[int] | None
    """All indices of the pass, as announced; None: unknown, or found to be wrong."""
    probed: int
    """So many of the first requests may be only for a look at what a batch is like: no more than these are read ahead
    before Keras asks for more."""
    at_hand: tuple[Batch, ...]
    """The batches of its first positions."""
    seen_at: float
    positions: Sequence[int] | None = None
    """Of each index, when Keras asks for it: the batch it gets is that one of the plan. None: the index itself."""
    asked: int = 0
    window: ReadAhead | None = None
    """What is read ahead; its next batch is that of position `asked`, or the first one not at hand."""
    goes_on: bool = False
    """The next one of the same `fit` is read ahead too, as the one before was followed by this."""

    @property
    def is_over(self) -> bool:
        """Every batch of the order was asked for."""
        return self.order is not None and self.asked >= len(self.order)

    @property
    def maker(self) -> object:
        """The adapter that made it; None if it has none, or its `fit` is over."""
        return self.adapter() if self.adapter is not None else None

    def wanted(self) -> Sequence[int]:
        """The indices to read ahead now: those still to be asked for and not at hand."""
        if self.order is None:
            return ()
        return self.order[max(self.asked, len(self.at_hand)) : self.probed if self.asked < self.probed else None]

    def take_window(self) -> list[ReadAhead]:
        """What was read ahead, which it has no longer; to be closed by whoever takes it, without the lock."""
        taken, self.window = self.window, None
        return [] if taken is None else [taken]

    def was_a_probe(self, successor: object) -> bool:
        """Keras looked at a batch to build the model and threw it away: it began anew before the pass was over.

        One request is a probe in any case. On an accelerator, or under a distribution strategy, Keras reads ahead and
        a probe has several; then it shows by `successor`, the next pass, being made by the same call of `fit`.
        """
        if self.order is None or self.is_over:  # of an unknown order the end is unknown too
            return False
        maker = self.maker
        return self.asked <= 1 or (maker is not None and maker is successor)


@dataclass(frozen=True, slots=True, eq=False)
class Onward:
    """What was read ahead beyond a pass: the next one of the same `fit`, should it come."""

    window: ReadAhead
    adapter: ref[object]
    number: int
    """Of its plan."""

    def suits(self, current: Pass) -> bool:
        """It is what this pass asks for first."""
        return current.goes_on and self.number == current.number and self.adapter() is not None


def positions(order: Sequence[int]) -> Sequence[int]:
    """Where in an order each index stands."""
    if isinstance(order, range):
        return order
    places = [0] * len(order)
    for position, index in enumerate(order):
        places[index] = position
    return places
