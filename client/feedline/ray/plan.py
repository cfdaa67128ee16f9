"""What is to be done so that a fleet has the replicas that it should have: pure.

It is decided anew each time from what is there, so a controller that dies in the middle of something is followed by one
that goes on with it.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

from feedline.ray.spec import REPLICA, Report


@dataclass(frozen=True, slots=True)
class Create:
    """Start a replica of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Have a replica that serves finish what it does and let its trainers move on. May be said again."""

    name: str


@dataclass(frozen=True, slots=True)
class Remove:
    """End a replica that serves nobody."""

    name: str


Action: TypeAlias = Create | Drain | Remove


def plan(actors: Collection[str], reports: Mapping[str, Report] | None, wanted: int) -> Iterator[Action]:
    """What leads from the replicas there are, by name, to so many. `reports` None: nobody knows how they are.

    One that serves is drained only while so many others serve as are wanted.
    """
    known = reports or {}
    state = {name: known[name].state if name in known else "starting" for name in actors}
    yield from (Remove(name) for name in _by_number(actors) if state[name] == "ended")
    staying = [name for name in _by_number(actors) if state[name] not in {"ended", "draining"}]
    if len(staying) < wanted:
        free = (name for number in count() if (name := f"{REPLICA}{number}") not in state)
        yield from (Create(next(free)) for _ in range(wanted - len(staying)))
    if reports is None:
        return
    serving = [name for name in staying if state[name] == "serving"]
    idle = [name for name in staying if state[name] != "serving"]
    excess = len(staying) - wanted
    if excess > 0:
        yield from (Remove(name) for name in idle[::-1][:excess])
        yield from (Drain(name) for name in serving[wanted:][::-1][: max(excess - len(idle), 0)])


def _by_number(names: Collection[str]) -> list[str]:
    return sorted(names, key=lambda name: (len(name), name))
