"""The batches of one epoch, handed out one by one and counted.

What was handed out is the place and the tally, moved together for each batch; what was fetched is the read-ahead's.
"""

import weakref
from collections.abc import Callable, Iterator
from types import TracebackType

from feedline.reading.audit import EpochIncomplete, Tally
from feedline.reading.batch import Batch
from feedline.reading.plan import Plan
from feedline.reading.readahead import ReadAhead
from feedline.reading.state import Place


class Epoch(Iterator[Batch]):
    """The batches of one epoch, or of what is left of it. It ends when every one was delivered, and only then.

    An error leaves it where it was: `next` asks for the same batch again. Left early (`break`), it is closed when it
    goes out of scope, or with `close()` or `with`.
    """

    def __init__(
        self,
        ahead: ReadAhead,
        plan: Plan,
        place: Place,
        *,
        of: object,
        moved: Callable[[Place], None],
        ended: Callable[[], None],
    ) -> None:
        self._tally = Tally(plan, place.epoch, place.offset)
        self._ahead = ahead
        self._plan = plan
        self._of = of
        self._place = place
        self._moved = moved
        self._ended = ended
        self._has_ended = False
        # Not for anything important: an iteration that nobody can reach any more should not go on occupying the loader.
        self._unreachable = weakref.finalize(self, ahead.drop)
        self._unreachable.atexit = False

    def __repr__(self) -> str:
        return f"<Epoch {self._place.epoch} delivered={self.delivered} of {self._of!r}>"

    @property
    def delivered(self) -> int:
        """Batches handed out."""
        return self._tally.delivered

    def __next__(self) -> Batch:
        if self._has_ended:
            raise StopIteration
        batch = self._ahead.take(self._place.epoch)
        try:
            # Ctrl-C can strike between any two instructions, also when a batch was taken and not yet handed out.
            # Whoever caught it and read on would miss one batch and never know. The place alone says what was: it
            # is moved by one assignment.
            if batch is None:
                self._tally.end(self._place.offset)
            else:
                self._tally.count(batch.step, batch.positions, self._place.offset)
        except EpochIncomplete:
            self.close()
            raise
        if batch is None:
            # A rank without a share of the last, short batch ends here, before the job's cursor does.
            self._move(max(self._place.offset, self._plan.samples))
            self._end()
            raise StopIteration
        self._move(batch.step.after)
        return batch

    def _move(self, offset: int) -> None:
        self._place = Place(self._place.epoch, offset)
        self._moved(self._place)

    def _end(self) -> None:
        """The read-ahead is the feed's, for the next epoch."""
        self._has_ended = True
        self._unreachable.detach()
        self._ended()

    def close(self) -> None:
        """Want nothing more; who waits here gets Closed. Twice is fine, and so is after the end."""
        if not self._has_ended:
            self._ahead.close()

    def __enter__(self) -> "Epoch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
