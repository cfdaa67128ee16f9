"""Which generators an object draws from: known from its calls, so that only those are seeded before each.

A generator that was never drawn from is compared after the calls. What is taken from an object while it draws nothing
is what it would give if all were seeded.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from feedline_wire import seeding


class Draws:
    """The generators of an object, and those that all code draws from."""

    def __init__(self, own: Sequence[seeding.Generator]) -> None:
        self._own = list(enumerate(own))
        self.drawn: dict[int, tuple[int | None, seeding.Generator]] = {}
        """By identity those that were drawn from, with the places of the object's own."""
        self._is_unreadable = True

    @property
    def is_each_seeded(self) -> bool:
        """Calls have to be seeded one by one."""
        return bool(self.drawn) or self._is_unreadable

    def seed(self, value: int) -> None:
        """Seed what is drawn from by a number of 128 bits, as `seeding.seed` does."""
        for place, generator in self.drawn.values():
            seeding.reseed(generator, value if place is None else seeding.number("generator", value, place))
        if self._is_unreadable:
            seeding.seed_unreadable(value)

    def begin(self) -> Mapping[int, object]:
        """Where the others are, before calls that `learn` is told of."""
        self._is_unreadable = seeding.has_unreadable()
        for _, generator in self._others():
            if isinstance(generator, np.random.RandomState):
                generator.seed(0)  # `randn` may have kept a number, which could be drawn without a trace
        return self._positions()

    def learn(self, before: Mapping[int, object]) -> bool:
        """Whether something was drawn from the others since; it is known from now on, and the calls are made again."""
        moved = {name for name, position in self._positions().items() if before.get(name) != position}
        self.drawn |= {
            id(generator): (place, generator) for place, generator in self._others() if id(generator) in moved
        }
        return bool(moved)

    def _positions(self) -> dict[int, object]:
        return {id(generator): seeding.position(generator) for _, generator in self._others()}

    def _others(self) -> list[tuple[int | None, seeding.Generator]]:
        every = [*((None, generator) for generator in seeding.shared_generators()), *self._own]
        return [(place, generator) for place, generator in every if id(generator) not in self.drawn]
