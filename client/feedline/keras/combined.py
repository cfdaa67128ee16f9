"""Sequences beside each other, and functions over their batches: what `map` and `zip` make, in either Keras.

A pass of Keras is a pass of each sequence in it, so it is mixed, read ahead and continued like them. Their rows belong
together because their plans are equal, which is checked when they are put together.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import FrameType
from typing import Any

from feedline.keras.caller import Run
from feedline.keras.driven import Driven
from feedline.keras.remote import Remote
from feedline.keras.statistics import SequenceStatistics
from feedline.keras.steps import Steps
from feedline.reading.feed import Feed
from feedline.reading.plan import Cursor
from feedline_wire.errors import InvalidRequest
from feedline_wire.verdict import Verdict

STATE_VERSION = 1
"""Of the state of several sequences, which holds that of each."""


class Combined(Driven):
    """One sequence of several, or of a function of one. Closing it closes them."""

    def __init__(self, sources: Sequence[Driven], function: Callable[..., Any] | None) -> None:
        if not sources:
            raise InvalidRequest("zip has got no sequence; write for example zip(images, labels)")
        if function is not None and not callable(function):
            raise InvalidRequest(
                f"map has got {function!r}, which cannot be called; write for example map(lambda x, y: (x / 255, y))"
            )
        for source in sources:
            if not isinstance(source, Driven):
                raise InvalidRequest(f"{source!r} is a {type(source).__name__}; put together RemoteSequences")
            if source._is_overridden:
                raise InvalidRequest(
                    f"{type(source).__name__} has a __getitem__ of its own: change batches there, or give its work to "
                    f"map as a function and make a plain RemoteSequence"
                )
        self._sources = tuple(sources)
        if len(self._remotes) != len(set(self._remotes)):
            raise InvalidRequest("a sequence is zipped with itself; change its batches with map instead")
        check_equal_plans([each._client.connected().training for each in self._remotes])
        self._begin(max(each.max_queue_size for each in self._remotes))
        self._warned: set[str] = set()
        self._function = function
        self.rank = sources[0].rank

    def __repr__(self) -> str:
        name = "zip" if self._function is None else "map"
        return f"<{name} of {', '.join(map(repr, self._sources))}>"

    @property
    def _remotes(self) -> list[Remote]:
        """All that are read."""
        found: list[Remote] = []
        for source in self._sources:
            found += source._remotes if isinstance(source, Combined) else [source] if isinstance(source, Remote) else []
        return found

    @property
    def _steps(self) -> int:
        return len(self._sources[0])

    @property
    def _all_steps(self) -> list[Steps]:
        return [steps for each in self._remotes for steps in each._all_steps]

    def _answer(self, run: Run | None, index: int, *, keep: bool, paired: bool) -> tuple[Any, ...]:
        # A function may change a batch in place.
        keep = keep and self._function is None
        paired = paired or len(self._sources) > 1
        parts = [source._answer(run, index, keep=keep, paired=paired) for source in self._sources]
        if self._function is None:
            return tuple(part[0] if len(part) == 1 else part for part in parts)
        made = self._function(*parts[0])
        made = made if isinstance(made, tuple) else (made,)
        if not 1 <= len(made) <= 3:
            raise InvalidRequest(
                f"the function of map returned {len(made)} parts; Keras takes x, (x, y) or (x, y, sample_weight)"
            )
        return made

    def _leave(self, frame: FrameType) -> None:
        for source in self._sources:
            source._leave(frame)

    def set_epoch(self, epoch: int) -> None:
        """The next training pass uses the plan of `epoch`, those after it the plans that follow."""
        for source in self._sources:
            source.set_epoch(epoch)

    def state_dict(self, epoch: int, trained: int = 0) -> dict[str, Any]:
        """Where a training is; of a map, the state of what is mapped. See `RemoteSequence.state_dict`."""
        states = [source.state_dict(epoch, trained) for source in self._sources]
        return states[0] if len(states) == 1 else {"version": STATE_VERSION, "zipped": states}

    def place_of(self, state: Mapping[str, object]) -> Cursor:
        """See `RemoteSequence.place_of`."""
        places = [source.place_of(each) for source, each in zip(self._sources, self._states(state), strict=True)]
        if len(set(places)) > 1:
            raise InvalidRequest(f"the state names several places: {', '.join(map(str, places))}")
        return places[0]

    def rest(self, state: Mapping[str, object]) -> "Driven":
        """See `RemoteSequence.rest`."""
        states = self._states(state)
        return type(self)([each.rest(s) for each, s in zip(self._sources, states, strict=True)], self._function)

    def _states(self, state: Mapping[str, object]) -> list[Mapping[str, object]]:
        if len(self._sources) == 1:
            return [state]
        states = state.get("zipped")
        if not isinstance(states, list) or len(states) != len(self._sources):
            raise InvalidRequest(f"this state is not of {len(self._sources)} sequences that are zipped: {dict(state)}")
        return states

    @property
    def stats(self) -> SequenceStatistics:
        """Counters until now, of all that are read together: two requests a step where two are zipped."""
        of_each = [each.stats for each in self._remotes]
        stages: Counter[str] = Counter()
        for each in of_each:
            stages.update(each.stages)
        names = [field.name for field in fields(SequenceStatistics) if field.name != "stages"]
        sums = {name: sum(getattr(each, name) for each in of_each) for name in names}
        return SequenceStatistics(**sums, stages=dict(stages))

    def why(self) -> Verdict:
        """What holds `fit` back: of the sequence that was waited for longest."""
        return max(self._remotes, key=lambda each: each.stats.waited_s).why()

    def close(self) -> None:
        """End the connections; threads that wait for a batch get Closed. Idempotent."""
        for source in self._sources:
            source.close()


def check_equal_plans(feeds: Sequence[Feed]) -> None:
    """Batch k of each has the same positions, in training and in dataset order. Raises InvalidRequest if not."""
    first = feeds[0]
    for other in feeds[1:]:
        if first.dataset.is_stream or other.dataset.is_stream:
            raise InvalidRequest(
                "a stream has no place that a batch of another dataset could belong to; serve a dataset instead"
            )
        wanted, found = _plan(first), _plan(other)
        differing = [f"{name} {wanted[name]!r} and {found[name]!r}" for name in wanted if wanted[name] != found[name]]
        if differing:
            raise InvalidRequest(
                f"rows of {first.ordering.dataset}/{first.options.view} and {other.ordering.dataset}/"
                f"{other.options.view} would not belong together: they have {', '.join(differing)}"
            )
        if first.ordering.order.startswith("buckets") and first.ordering.fingerprint != other.ordering.fingerprint:
            raise InvalidRequest(
                f"order={first.ordering.order!r} depends on the lengths in each dataset, so rows of two would not "
                f"belong together; use order='shuffle'"
            )


def _plan(feed: Feed) -> dict[str, object]:
    plan, ordering = feed.plan, feed.ordering
    return {
        "samples": plan.samples,
        "batch_size": plan.batch_size,
        "order": ordering.order,
        "seed": ordering.seed,
        "remainder": plan.remainder,
        "rank": plan.rank,
        "world": plan.world,
    }
