"""How many loaders a fleet should have, from what its loaders say: values in, a number out.

`feedline autoscale` and Ray's controller ask every few seconds, with their own past answers. One that begins anew,
without a past, asks for more at once where trainers need it, and for fewer only after a whole window.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from feedline_wire.demand import demand_workers, for_loaders
from feedline_wire.errors import InvalidRequest
from feedline_wire.status import LoaderStatus, readers_of, replicas_of
from feedline_wire.text import share
from feedline_wire.verdict import UNFELT

TARGET = 0.7
"""Of the workers' time: the rest is for bursts, for a loader that is lost, and for the time that one takes to start."""

WINDOW_S = 300.0
"""Kubernetes' own default for scaling down: a trainer that saves its weights or evaluates is back by then."""

IN_EVERY_S = 60.0
"""Between two loaders that are taken away: what one less does to trainers shows in the figures of a minute."""

TOLERANCE = 0.1
"""Of the target, by which demand may be more before there is one loader more, as Kubernetes has it: else what is
measured goes up and down across an edge, and the fleet with it."""

NOISE = 1e-6
"""7.000001 loaders are seven."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the one who runs the fleet allows. Raises InvalidRequest if it makes no sense."""

    least: int = 1
    """Loaders. 0: none while no trainer is there."""
    most: int = 10
    target: float = TARGET
    window_s: float = WINDOW_S
    in_every_s: float = IN_EVERY_S

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or not self.most:
            raise InvalidRequest(
                f"min is {self.least} and max {self.most} loaders; wanted 0 <= min <= max and a max of 1 or more"
            )
        if not 0 < self.target <= 1:
            raise InvalidRequest(
                f"target is {self.target:g} of the workers' time; wanted more than 0, and 1 at most, such as 0.7"
            )
        if not (self.window_s >= 0 and self.in_every_s >= 0):
            raise InvalidRequest(f"window is {self.window_s:g} s and scale-in {self.in_every_s:g} s; wanted 0 or more")


@dataclass(frozen=True, slots=True)
class Look:
    """What a fleet was at a moment."""

    at: float
    """Seconds, of any clock that only goes on."""
    replicas: int
    """That answer, and do not drain."""
    workers: int
    """Of all these."""
    demand: float
    """Worker-seconds a second that trainers would use if they never waited for workers."""
    waiting_share: float = 0.0
    """Of the time of the trainer that waits most, 0 to 1: for batches, not for what it does with them itself."""
    trainers: int = 0
    """Connected."""
    knocking: int = 0
    """Trainers that ask for a loader where none is."""
    unanswered: int = 0
    """Addresses at which no loader answers: one starts there, or is gone."""
    is_known: bool = True
    """False: nothing can be said, because the target cannot be resolved or none of its addresses answers."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """How many loaders there should be, and why."""

    at: float
    replicas: int
    wanted: int
    """What the look alone would ask for, between least and most."""
    reason: str

    def __str__(self) -> str:
        return f"{self.replicas} loaders: {self.reason}" if self.replicas != 1 else f"1 loader: {self.reason}"


def look(
    statuses: Mapping[str, LoaderStatus], at: float, *, knocking: int = 0, unanswered: int = 0, is_known: bool = True
) -> Look:
    """What the loaders' answers to Status, by their addresses, come to. A loader at two addresses counts once."""
    once = {status.replica: (address, status) for address, status in statuses.items()}
    told = dict(once.values())
    serving = [status for status in told.values() if not status.draining]
    readers = readers_of(told.values())
    return Look(
        at=at,
        replicas=len(serving),
        workers=sum(int(status.counters.get("workers", 0)) for status in serving),
        demand=demand_workers(readers, replicas_of(told)),
        waiting_share=max((for_loaders(one) for one in readers if one.is_reading), default=0.0),
        trainers=max((len(status.trainers) for status in told.values()), default=0),
        knocking=knocking,
        unanswered=unanswered,
        is_known=is_known and (bool(told) or not unanswered),
    )


def decide(look: Look, past: Sequence[Recommendation], policy: Policy) -> Recommendation:
    """What to have now. `past` is what was decided before, oldest first, of the last window at least (`kept`)."""
    before = _within(past[-1].replicas if past else look.replicas, policy)
    if not look.is_known:
        where = f"{look.unanswered} addresses" if look.unanswered else "the target"
        blind = _within(max(before, int(bool(look.knocking))), policy)
        return Recommendation(look.at, blind, blind, f"as before: nothing answers at {where}")
    wanted = _within(_wanted(look, policy), policy)
    if wanted > before and _bears(before, look, policy):
        wanted = before
    reason = _of_demand(look, wanted, policy)
    if wanted >= before:
        return Recommendation(look.at, wanted, wanted, reason)
    if held := _not_fewer(look, before, past, policy):
        return Recommendation(look.at, before, wanted, f"{held}: {reason}")
    return Recommendation(look.at, before - 1, wanted, reason)


def _not_fewer(look: Look, before: int, past: Sequence[Recommendation], policy: Policy) -> str:
    """Why there may not be one less now; empty if there may."""
    if look.waiting_share >= UNFELT:
        return f"as before, since a trainer waits {share(look.waiting_share)}"
    since = look.at - policy.window_s
    is_seen = bool(past) and past[0].at <= since
    if not is_seen or any(one.wanted >= before for one in past if one.at > since):
        return f"as before until it lasts {policy.window_s:g} s"
    if look.at - _fewer_at(past) < policy.in_every_s:
        return f"one less every {policy.in_every_s:g} s"
    return ""


def kept(past: Iterable[Recommendation], now: float, policy: Policy) -> list[Recommendation]:
    """Of what was decided, what `decide` still needs: the last window, and the last before it."""
    past = list(past)
    span_s = max(policy.window_s, policy.in_every_s)
    before = [at for at, one in enumerate(past) if one.at <= now - span_s]
    return past[before[-1] if before else 0 :]


def _wanted(look: Look, policy: Policy) -> int:
    """Of the look alone."""
    is_asked = bool(look.trainers or look.knocking)
    if not look.workers:
        return int(is_asked)
    per_replica = look.workers / look.replicas
    return max(math.ceil(look.demand / (policy.target * per_replica) - NOISE), int(is_asked))


def _bears(replicas: int, look: Look, policy: Policy) -> bool:
    """So many bear the demand, if only just."""
    if not (replicas and look.workers):
        return False
    return look.demand <= (1 + TOLERANCE) * policy.target * replicas * look.workers / look.replicas


def _within(replicas: int, policy: Policy) -> int:
    return min(max(replicas, policy.least), policy.most)


def _fewer_at(past: Sequence[Recommendation]) -> float:
    """When there was last one less; long ago if never."""
    steps = itertools.pairwise(past)
    return max((after.at for before, after in steps if after.replicas < before.replicas), default=-math.inf)


def _of_demand(look: Look, wanted: int, policy: Policy) -> str:
    """In words what the look alone would ask for."""
    if not look.workers:
        asking = look.knocking or look.trainers
        return (
            f"{asking} {'trainer asks' if asking == 1 else 'trainers ask'} for one" if asking else "no trainer is there"
        )
    if not wanted:
        return "no trainer is there"
    per_replica = look.workers / look.replicas
    used = look.demand / (wanted * per_replica)
    words = f"trainers want {look.demand:.3g} workers, {share(used)} of those of {wanted} x {per_replica:.3g}"
    return f"{words}, and max is {policy.most}" if wanted == policy.most and used > policy.target else words
