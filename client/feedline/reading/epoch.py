"""The batches of one epoch, handed out one by one and audited: it ends when every step of its plan came, in order.

The audit is apart from what fetches: it compares the plan's arithmetic with the steps that really come out.
"""

from collections.abc import Callable, Iterator

from feedline.reading.batch import Batch
from feedline.reading.plan import Cursor, Plan, Step
from feedline.reading.readahead import ReadAhead
from feedline_wire.errors import Closed, DataError, InvalidRequest

RANGES_NAMED = 4
"""Of missing positions, in an error."""


class EpochIncomplete(Closed):
    """An iteration would have left out or repeated positions, so it was closed; the message names them.

    The feed stands behind the last batch that came in order, so `iter()` of it goes on with those missing.
    """


class Epoch(Iterator[Batch]):
    """The batches of one epoch, or of what is left of it. It ends when every one was delivered, and only then.

    `next` blocks until the batch is there. An error leaves the epoch where it was: `next` then asks for the same batch
    again. Left early (`break`), it is closed when it goes out of scope, or with `close()` or `with`. Read it in one
    thread.
    """

    def __init__(
        self,
        ahead: ReadAhead,
        plan: Plan,
        cursor: Cursor,
        *,
        of: object,
        moved: Callable[[Cursor], None],
        ended: Callable[[], None],
    ) -> None:
        self._audit = EpochAudit(plan, cursor)
        self._ahead = ahead
        self._plan = plan
        self._of = of
        self._cursor = cursor
        self._moved = moved
        self._ended = ended
        self._has_ended = False
        self._has_rows = False

    def __repr__(self) -> str:
        return f"<Epoch {self._cursor.epoch} delivered={self.delivered} of {self._of!r}>"

    @property
    def delivered(self) -> int:
        """Batches handed out."""
        return self._audit.delivered

    @property
    def cursor(self) -> Cursor:
        """The place behind the batch that was handed out last."""
        return self._cursor

    @property
    def is_ready(self) -> bool:
        """`next` will not wait."""
        return self._has_ended or self._ahead.is_ready

    def __len__(self) -> int:
        """How many batches it has from where it was begun, handed out or not.

        Raises InvalidRequest for a stream that never ends.
        """
        if self._plan.is_endless:
            raise InvalidRequest("a stream that never ends has no length; declare its steps_per_epoch on the loader")
        return self._audit.promised

    def __bool__(self) -> bool:
        """An iteration, whatever is left of it."""
        return True

    def __next__(self) -> Batch:
        """The next batch; those of a single bad sample, which the loader leaves out, are counted and passed over."""
        try:
            while not len((batch := self._next()).ids):
                pass
        except StopIteration:
            if not self._has_rows and self.delivered > 1:
                self._has_rows = True  # it is said once
                raise DataError(f"all {self.delivered} samples of epoch {self._cursor.epoch} are bad") from None
            raise
        self._has_rows = True
        return batch

    def _next(self) -> Batch:
        if self._has_ended:
            raise StopIteration
        batch = self._ahead.take(self._cursor.epoch)
        try:
            # Ctrl-C can strike between any two instructions, also when a batch was taken and not yet handed out: a
            # reader who caught it and read on would miss one batch without a sign. The cursor alone says what was
            # handed out: it is moved by one assignment.
            if batch is None:
                self._audit.end(self._cursor.offset)
            else:
                self._audit.count(batch.step, batch.positions, self._cursor.offset)
        except EpochIncomplete:
            self.close()
            raise
        if batch is None:
            # A rank without a share of the last, short batch ends here, before the job's offset does.
            self._move(max(self._cursor.offset, self._plan.samples))
            self._has_ended = True
            self._ended()
            raise StopIteration
        self._move(batch.step.after)
        return batch

    def _move(self, offset: int) -> None:
        self._cursor = Cursor(self._cursor.epoch, offset)
        self._moved(self._cursor)

    def start(self) -> None:
        """Begin to fetch ahead now, and not with the first `next`. Does not block. Idempotent."""
        if not self._has_ended:
            self._ahead.start()

    def close(self) -> None:
        """Want nothing more; a thread that waits here gets Closed. Idempotent; does nothing after the end."""
        if not self._has_ended:
            self._ahead.close()

    def __enter__(self) -> "Epoch":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class EpochAudit:
    """Counts the steps of one epoch, or of what is left of it, against its plan."""

    def __init__(self, plan: Plan, begin: Cursor) -> None:
        self._plan = plan
        self._epoch = begin.epoch
        self.promised = plan.steps_from(begin.offset)
        """Steps from there to the end."""
        self.delivered = 0
        """Steps handed out."""

    def count(self, step: Step, positions: int, offset: int) -> None:
        """A step is about to be handed out, which answers so many positions; all before `offset` were handed out.

        Positions, not samples: one that is drawn twice, or is bad and left out, is a position answered.
        Raises EpochIncomplete if it is not the step that comes next.
        """
        if step != self._plan.step_at(self._epoch, offset) or positions != step.rows:
            raise EpochIncomplete(
                f"epoch {self._epoch} would have gone on with {_positions(step)} ({positions} rows) after "
                f"{self.delivered} of {self.promised} batches; {self._missing(offset, until=step.offset)} {_WHY}"
            )
        self.delivered += 1

    def end(self, offset: int) -> None:
        """Nothing more comes, and all before `offset` was handed out. Raises EpochIncomplete if that is too early."""
        if self.delivered != self.promised or self._plan.step_at(self._epoch, offset) is not None:
            raise EpochIncomplete(
                f"epoch {self._epoch} would have ended after {self.delivered} of {self.promised} batches; "
                f"{self._missing(offset, until=None)} {_WHY}"
            )

    def _missing(self, offset: int, until: int | None) -> str:
        """Which positions were not handed out, from the job's offset to a position, or to the epoch's end."""
        missing: list[str] = []
        for step in self._plan.steps(self._epoch, offset):
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
