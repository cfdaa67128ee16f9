"""One pass: how far it is, which step each index is, and how much may be read ahead for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from weakref import ref

from feedline.reading.batch import Batch
from feedline.reading.feed import Feed
from feedline.reading.plan import Cursor, Step
from feedline.reading.readahead import ReadAhead


@dataclass(slots=True, eq=False)
class Pass:
    """One run of Keras' generator, or a request without one, and how far it is. Changed under its `Passes`' lock."""

    feed: Feed
    """The training feed in a shuffled pass, otherwise that in dataset order."""
    start: Cursor
    """Where it begins."""
    seen_at: float
    """When it began, or its latest batch was given."""
    kept: int
    """So many of the first batches are not read ahead, as they are kept from requests before the pass."""
    frame: FrameType | None = None
    """The run's identity; None once the run has asked for its last batch."""
    adapter: ref[object] | None = None
    shuffled: bool = False
    number: int = 0
    """Of a shuffled pass: which plan it has."""
    order: Sequence[int] | None = None
    """All indices of the pass, as announced; None: unknown, or found to be wrong."""
    positions: Sequence[int] | None = None
    """Of each index, which batch of the plan it is; None: the batch of that index."""
    probed: int = 0
    """So many of the first requests may be only for a look at what a batch is like."""
    is_probe: bool = False
    """It is certain that Keras builds a model with it, and begins anew."""
    looked_at: list[Batch] = field(default_factory=list)
    """Of a pass that may be a probe the batches that were given; of the pass after it, those that it begins with."""
    is_direct: bool = True
    """Keras asks the sequence itself; a wrapper may ask for anything."""
    follows: bool = False
    """It is the next pass of a `fit` after a whole one, so another one may follow."""
    requests: int = 0
    """Requests until now."""
    window: ReadAhead | None = None
    """What is read ahead; its next batch is that of number `requests`, or the first one not kept."""

    @property
    def is_over(self) -> bool:
        """Every batch of the order was asked for."""
        return self.order is not None and self.requests >= len(self.order)

    @property
    def maker(self) -> object:
        """The adapter that made it; None if it has none, or its `fit` is over."""
        return self.adapter() if self.adapter is not None else None

    def limit(self) -> int | None:
        """How many of the batches not kept and not asked for may be read ahead; None: on into the pass after this."""
        if self.order is None:
            return 0
        given = max(self.requests, self.kept)
        if self.requests < self.probed:
            return max(min(self.probed, len(self.order)) - given, 0)
        return None if self.follows else len(self.order) - given

    def step(self, index: int) -> Step:
        """The step that it gets for an index.

        Keras mixes the indices, but what it asks for first is the plan's first batch: so what was trained is always
        the plan up to some place, from where it can be continued.
        """
        return self.feed.plan.step_after(self.start, index if self.positions is None else self.positions[index])

    def steps(self, indices: Sequence[int]) -> Iterator[Step]:
        """The steps that it gets for these indices, and behind them those of the passes after it."""
        after = self.start
        for index in indices:
            step = self.step(index)
            yield step
            after = Cursor(step.epoch, step.after)
        yield from self.feed.plan.onward(after)

    def take_window(self) -> list[ReadAhead]:
        """What was read ahead, which it has no longer; to be closed without the lock."""
        taken, self.window = self.window, None
        return [] if taken is None else [taken]

    def follows_on(self, last: "Pass", *, steps: int) -> bool:
        """It comes after a whole pass of the same `fit`, so another one may come after it."""
        return (
            last.is_over
            and self.maker is not None
            and self.maker is last.maker
            and self.number == last.number + 1
            and self.positions is not None
            and len(self.positions) == steps
        )

    def repeats(self, probe: "Pass") -> bool:
        """It has the plan of the build probe before it, of the same `fit`, from its first batch on."""
        return (
            self.maker is not None
            and self.maker is probe.maker
            and probe.was_a_probe(self.maker)
            and self.start == probe.start
            and self.positions is not None
            and probe.positions is not None
        )

    def go_on(self, last: "Pass") -> None:
        """Go on with what is read ahead behind the pass before it, and on into the one after it."""
        self.follows, self.window, last.window = True, last.window, None
        if self.window is not None:
            self.window.limit = None

    def take_over(self, probe: "Pass") -> None:
        """Begin with what a build probe was given and had read ahead: the first batches of the same plan."""
        if self.order is None or not 0 < len(probe.looked_at) == probe.requests:
            return
        self.looked_at, self.kept = probe.looked_at, probe.requests
        if (window := probe.window) is not None and probe.order is not None:
            wanted = min(probe.probed, len(probe.order)) - (window.limit or 0)
            probe.window, self.window = None, window
            window.limit = len(self.order) - wanted

    def was_a_probe(self, successor: object) -> bool:
        """Keras looked at a batch to build the model and threw it away: it began anew before the pass was over.

        Where that could not be seen, one request is a probe in any case. On an accelerator Keras reads ahead and a
        probe has several; then it shows by `successor`, the next pass, being made by the same call of `fit`.
        """
        if self.is_probe:
            return True
        if self.order is None or self.is_over:  # of an unknown order the end is unknown too
            return False
        return self.requests <= 1 or (successor is not None and successor is self.maker)
