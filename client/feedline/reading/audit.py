"""What of an epoch was handed out, counted: an epoch ends when every step of its plan was, once and in order.

Counted apart from what fetches: from the plan's arithmetic and from the steps that really came out.
"""

from feedline.reading.plan import Plan, Step
from feedline_wire.errors import Closed

RANGES_NAMED = 4
"""Of missing positions, in an error."""


class EpochIncomplete(Closed):
    """An iteration would have left out or repeated positions, so it was closed; the message names them.

    What a feed remembers is behind the last batch that came in order, so `iter()` of it goes on with those missing.
    """


class Tally:
    """Counts the steps of one epoch, or of what is left of it."""

    def __init__(self, plan: Plan, epoch: int, offset: int) -> None:
        self._plan = plan
        self._epoch = epoch
        self._promised = plan.steps_from(offset)
        self.delivered = 0
        """Steps handed out."""

    def __repr__(self) -> str:
        return f"<Tally epoch={self._epoch} delivered={self.delivered}/{self._promised}>"

    def count(self, step: Step, positions: int, cursor: int) -> None:
        """A step is about to be handed out, which answers so many positions, and everything before the cursor was.

        Positions, not samples: one that is drawn twice, or is bad and left out, is a position answered.

        EpochIncomplete if it is not the step that comes next.
        """
        if step != self._plan.step_at(self._epoch, cursor) or positions != step.rows:
            raise EpochIncomplete(
                f"epoch {self._epoch} would have gone on with {_positions(step)} ({positions} rows) after "
                f"{self.delivered} of {self._promised} batches; {self._missing(cursor, until=step.offset)} {_WHY}"
            )
        self.delivered += 1

    def end(self, cursor: int) -> None:
        """Nothing more comes, and everything before the cursor was handed out; EpochIncomplete if that is too early."""
        if self.delivered != self._promised or self._plan.step_at(self._epoch, cursor) is not None:
            raise EpochIncomplete(
                f"epoch {self._epoch} would have ended after {self.delivered} of {self._promised} batches; "
                f"{self._missing(cursor, until=None)} {_WHY}"
            )

    def _missing(self, cursor: int, until: int | None) -> str:
        """Which positions were not handed out, from the cursor to a position, or to the epoch's end."""
        missing: list[str] = []
        for step in self._plan.steps(self._epoch, cursor):
            if (until is not None and step.offset >= until) or len(missing) > RANGES_NAMED:
                break
            missing.append(_positions(step))
        if not missing:
            return "it had been handed out before."
        named = ", ".join(missing[:RANGES_NAMED])
        return f"missing: {named}{' and more' if len(missing) > RANGES_NAMED else ''}."


def _positions(step: Step) -> str:
    return f"positions {step.offset}..{step.offset + step.rows - 1}"


_WHY = (
    "This iteration was interrupted while it handed out a batch, or is read by two threads at once; "
    "go on with iter() of the feed, in one thread"
)
