"""An object as it is in each epoch: as it was built, and changed from epoch to epoch by its own code, as in Keras.

With `set_epoch` epoch e follows from e. Else epoch e is what e calls of `on_epoch_end`, each seeded by (seed, epoch),
make of the object as it was built. What reading batches does to it reaches no other epoch. So every epoch can be begun
in every worker; states that are kept bound what it costs to go back.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from feedline_server.sources.python.copies import COPY_NBYTES, Copies, TooLarge
from feedline_server.sources.python.objects import Built, calling, check_length, generators
from feedline_wire import seeding
from feedline_wire.errors import DataError

KEPT_STATES = 32
"""Of an object, evenly spread over the epochs that were begun: going back to any of the first 1,000 takes 32 calls."""

LONG_S = 5.0
"""A wait for calls of `on_epoch_end` that an operator is told of."""


class Epochs:
    """The epochs of one object under one seed."""

    def __init__(self, built: Built, anew: Callable[[], Any], seed: int, *, can_keep: bool, timeout_s: float) -> None:
        """`anew` gives the object as it was built."""
        self._built = built
        self._anew = anew
        self._seed = seed
        self._can_keep = can_keep
        self._timeout_s = timeout_s
        self._kept: dict[int, Copies] = {}
        self._apart = 1

    def begun(self, epoch: int) -> Any:  # noqa: ANN401 - the operator's
        """The object at the beginning of an epoch, for the caller alone. DataError if its length is another."""
        value = (
            self._by_number(epoch) if callable(getattr(self._built.value, "set_epoch", None)) else self._walked(epoch)
        )
        check_length(self._built, value, epoch)
        return value

    def _by_number(self, epoch: int) -> Any:  # noqa: ANN401
        value = self._anew()
        self._seeded(value, epoch)
        if epoch:
            self._told(value, "set_epoch", epoch - 1)
            self._told(value, "on_epoch_end")
        self._told(value, "set_epoch", epoch)
        self._told(value, "on_epoch_begin")
        return value

    def _walked(self, epoch: int) -> Any:  # noqa: ANN401
        if not callable(getattr(self._built.value, "on_epoch_end", None)):
            value = self._anew()
            self._seeded(value, epoch)
            self._told(value, "on_epoch_begin")
            return value
        began = time.monotonic()
        at = max((known for known in self._kept if known <= epoch), default=-1)
        value = self._anew() if at < 0 else self._kept[at].another()
        for number in range(at + 1, epoch + 1):
            self._seeded(value, number)
            if number:
                self._told(value, "on_epoch_end")
            self._told(value, "on_epoch_begin")
            if number == epoch or number % self._apart == 0:
                self._keep(number, value)
            if (waited_s := time.monotonic() - began) > self._timeout_s:
                raise DataError(
                    f"{self._built.reference}: epoch {epoch} is what {epoch} calls of on_epoch_end make of it, and "
                    f"{number - at} of them took {waited_s:.0f} s, longer than start_timeout_s; {_REMEDY}"
                )
        if (waited_s := time.monotonic() - began) > LONG_S:
            print(  # noqa: T201 - a worker's log is its standard error
                f"feedline: {self._built.reference}: epoch {epoch} took {waited_s:.0f} s to begin, for {epoch - at} "
                f"calls of on_epoch_end; {_REMEDY}",
                file=sys.stderr,
                flush=True,
            )
        return value

    def _seeded(self, value: object, epoch: int) -> None:
        seeding.seed(seeding.number("epoch", self._seed, epoch), generators(self._built, value))

    def _told(self, value: object, name: str, *arguments: int) -> None:
        if callable(method := getattr(value, name, None)):
            text = ", ".join(map(str, arguments))
            calling(f"{self._built.reference}: {name}({text})", lambda: method(*arguments))

    def _keep(self, epoch: int, value: object) -> None:
        """Keep the state, and of those before it as many as there is room for, at growing distances."""
        if not self._can_keep:
            return
        with suppress(TooLarge):
            latest = Copies(value)
            while True:
                self._kept = {known: one for known, one in self._kept.items() if known % self._apart == 0}
                nbytes = latest.nbytes + sum(one.nbytes for one in self._kept.values())
                if not self._kept or (len(self._kept) < KEPT_STATES and nbytes <= COPY_NBYTES):
                    break
                self._apart *= 2
            self._kept[epoch] = latest


_REMEDY = "give it set_epoch(epoch), which makes every epoch from its number, to begin anywhere at once"
