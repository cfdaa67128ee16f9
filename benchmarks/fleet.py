"""A fleet that is scaled, in simulation: trainers and loaders are made up, what decides is the code that is shipped.

    python -m benchmarks.fleet [SCENARIO …] [--seed N]        or scripts/simulate-fleet

Time goes in seconds. Each second the loaders that are there share their workers fairly among the trainers' wants, each
trainer computes with the batches that it has, and the figures of the last minute are kept as the real ones keep them,
with noise. Every 15 s the number of loaders is decided from these, and a loader that was asked for is there after its
start. What comes of it is held against what is promised: `judge`.
"""

import argparse
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from feedline.watching.scaling import Look, Policy, Recommendation, decide, kept
from feedline_wire.demand import demand_workers, for_loaders
from feedline_wire.figures import RECENT_S, ReaderFigures, ReplicaFigures

DECIDED_EVERY_S = 15
"""Kubernetes' own period, and what KEDA can be set to."""

PREFETCH = 16
"""Batches that a trainer has ahead: the default."""

UP_WITHIN_S = 180.0
UTILISATION = 0.97
"""What is promised: up within three minutes and one start, and then trainers that compute 97 % of their time."""


@dataclass(frozen=True)
class Group:
    """Trainers of one kind, that are there for a while."""

    count: int
    step_s: float
    """What a trainer computes with a batch."""
    cost_s: float
    """What a batch takes a worker."""
    begins: float = 0.0
    ends: float = math.inf
    pauses: Callable[[float], bool] = lambda _now: False
    """Whether it evaluates, or saves its weights, at a time since its beginning."""

    @property
    def demand(self) -> float:
        """Workers that all of them want."""
        return self.count * self.cost_s / self.step_s


@dataclass(frozen=True)
class Scenario:
    """What happens to a fleet."""

    name: str
    groups: Sequence[Group]
    policy: Policy
    seconds: int
    workers: int = 4
    """Of a loader."""
    start_s: float = 60.0
    """From being asked for to the first batch: a node that is there, an image that is there, data that is opened."""
    replicas: int = 1
    """At the beginning."""
    noise: float = 0.05
    """Of costs and waits, as they are measured."""
    restarts: Sequence[int] = ()
    """When the controller begins anew."""
    broken: int = 0
    """So many of those asked for never become ready; they count as there for what scales."""
    storage: float = math.inf
    """Batches a second that the storage of all gives; a worker that waits for it is busy."""


@dataclass
class Trainer:
    """One rank, and its counters at each second."""

    group: Group
    view: str
    """Of its group: what its batches cost is known by it."""
    name: str
    buffer: float = 0.0
    batches: list[float] = field(default_factory=lambda: [0.0])
    waited: list[float] = field(default_factory=lambda: [0.0])
    computed: float = 0.0

    def reads(self, now: float) -> bool:
        """It is there, and neither evaluates nor saves."""
        return self.group.begins <= now < self.group.ends and not self.group.pauses(now - self.group.begins)

    def wants(self) -> float:
        """Batches in this second, with those that fill what it has ahead."""
        return 1 / self.group.step_s + PREFETCH - self.buffer

    def goes_on(self, given: float, *, is_reading: bool) -> float:
        """A second passes in which it is given so many batches; the part of it that it waited."""
        self.buffer = min(self.buffer + given, PREFETCH + 1 / self.group.step_s)
        waited = 0.0
        if is_reading:
            taken = min(1 / self.group.step_s, self.buffer)
            self.buffer -= taken
            waited = 1 - taken * self.group.step_s
            self.computed += 1 - waited
        else:
            taken = 0.0
        self.batches.append(self.batches[-1] + taken)
        self.waited.append(self.waited[-1] + waited)
        return waited

    def figures(self, loaders: int, *, is_reading: bool, noise: float) -> ReaderFigures:
        """Of the last minute, as it says them."""
        first = max(len(self.batches) - 1 - round(RECENT_S), 0)
        elapsed = float(len(self.batches) - 1 - first)
        # What it computes is what varies: the rest of its time it waits.
        waited = elapsed - (elapsed - (self.waited[-1] - self.waited[first])) * noise
        batches = round(self.batches[-1] - self.batches[first])
        return ReaderFigures(
            self.view,
            0,
            1,
            elapsed,
            {"queue": max(waited, 0.0)} if self.waited[-1] > self.waited[first] else {},
            batches,
            "tcp",
            self.name,
            loaders,
            is_reading,
        )


@dataclass
class Outcome:
    """What came of a scenario, second by second."""

    scenario: Scenario
    ready: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    demand: list[float] = field(default_factory=list)
    """Workers that trainers want, as it is."""
    measured: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    """The part of this second that trainers waited, all together."""
    decisions: list[Recommendation] = field(default_factory=list)

    def utilisation(self, begin: int, end: int) -> float:
        """What trainers computed, of the time in which they could have."""
        part = self.waiting[begin:end]
        return 1 - sum(part) / len(part) if part else 1.0


def simulate(scenario: Scenario, seed: int = 0) -> Outcome:
    """Let it happen."""
    chance = random.Random(seed)
    trainers = [
        Trainer(group, f"{at}/train", f"{at}.{n}")
        for at, group in enumerate(scenario.groups)
        for n in range(group.count)
    ]
    outcome = Outcome(scenario)
    starts: list[float] = [-math.inf] * scenario.replicas  # when each loader that is asked for is there
    past: list[Recommendation] = []
    for second in range(scenario.seconds):
        if second in scenario.restarts:
            past = []
        ready = sum(at <= second for at in starts)
        there = [one for one in trainers if one.group.begins <= second < one.group.ends]
        given, cost = _share(there, ready * scenario.workers, scenario.storage)
        waits = [one.goes_on(given[one.name], is_reading=one.reads(second)) for one in there]
        outcome.ready.append(ready)
        outcome.demand.append(sum(one.group.cost_s / one.group.step_s for one in there if one.reads(second)))
        outcome.waiting.append(sum(waits) / len(waits) if waits else 0.0)
        if second % DECIDED_EVERY_S == 0:
            look = _looked(there, second, ready, scenario, cost=cost, chance=chance)
            made = decide(look, past, scenario.policy)
            past = kept([*past, made], float(second), scenario.policy)
            outcome.decisions.append(made)
            outcome.measured.append(look.demand)
            while len(starts) < made.replicas:
                is_broken = sum(math.isinf(at) and at > 0 for at in starts) < scenario.broken
                starts.append(math.inf if is_broken else second + scenario.start_s)
            starts = sorted(starts)[: made.replicas] if not scenario.broken else starts[: made.replicas]
        outcome.asked.append(len(starts))
    return outcome


def _share(there: Sequence[Trainer], workers: float, storage: float) -> tuple[dict[str, float], float]:
    """What each trainer is given in a second, fairly by what it costs, and by how much a batch costs more than it does.

    More than it does where storage cannot keep up: workers wait, and are busy.
    """
    given = dict.fromkeys((one.name for one in there), 0.0)
    left, able = workers, sorted(there, key=lambda one: one.wants() * one.group.cost_s)
    while able:
        one = able.pop(0)
        seconds = min(one.wants() * one.group.cost_s, left / (len(able) + 1))
        given[one.name] = seconds / one.group.cost_s
        left -= seconds
    total = sum(given.values())
    if total <= storage:
        return given, 1.0
    return {name: batches * storage / total for name, batches in given.items()}, total / storage


def _looked(
    there: Sequence[Trainer], second: int, ready: int, scenario: Scenario, *, cost: float, chance: random.Random
) -> Look:
    """What the fleet says of itself."""

    def noisy() -> float:
        return max(chance.gauss(1.0, scenario.noise), 0.0)

    readers = [one.figures(ready, is_reading=one.reads(second), noise=noisy()) for one in there]
    work: dict[str, tuple[int, float]] = {}
    for one, reader in zip(there, readers, strict=True):
        count, seconds = work.get(one.view, (0, 0.0))
        work[one.view] = count + reader.batches, seconds + reader.batches * one.group.cost_s * cost * noisy()
    batches, spent = (sum(of) for of in zip(*work.values(), strict=True)) if work else (0, 0.0)
    at_first = scenario.workers if there and not batches else 0
    loaders = [
        ReplicaFigures(
            str(at), RECENT_S, scenario.workers, 1 << 30, batches=round(batches / ready),
            assembling_s=spent / ready, workers_busy=at_first, work=work if not at else {},
        )
        for at in range(ready)
    ]  # fmt: skip
    return Look(
        float(second),
        replicas=ready,
        workers=ready * scenario.workers,
        demand=demand_workers(readers, loaders),
        waiting_share=max((for_loaders(one) for one in readers if one.is_reading), default=0.0),
        trainers=len(there) if ready else 0,
        knocking=len(there) if not ready else 0,
    )


# ---- what is promised ----


@dataclass(frozen=True)
class Verdict:
    """How one change of the load was followed."""

    at: int
    up_s: float
    """Until trainers computed as much as is promised, until the next change; 0 where it was never less, inf if they do
    not yet."""
    down_s: float
    """Until no loader was too many."""
    reversals: int
    utilisation: float
    """Once settled, until the next change."""


def needed(demand: float, scenario: Scenario) -> int:
    """Loaders that the policy wants for so many workers."""
    wanted = math.ceil(demand / (scenario.policy.target * scenario.workers) - 1e-6)
    return min(max(wanted, scenario.policy.least, int(demand > 0)), scenario.policy.most)


def judge(outcome: Outcome) -> list[Verdict]:
    """How each change of the load was followed."""
    scenario = outcome.scenario
    changes = sorted(
        {round(at) for one in scenario.groups for at in (one.begins, one.ends) if 0 <= at < scenario.seconds} | {0}
    )
    return [_followed(outcome, at, end) for at, end in zip(changes, [*changes[1:], scenario.seconds], strict=True)]


def _followed(outcome: Outcome, begin: int, end: int) -> Verdict:
    scenario = outcome.scenario
    settled = begin
    for second in range(begin, end):
        window = outcome.waiting[second : min(second + 30, end)]
        if sum(window) / len(window) > 1 - UTILISATION:
            settled = second + 1
    # One more than the policy wants is noise, and no more than that.
    most = needed(max(outcome.demand[begin:end]), scenario) + 1
    down = next((s for s in range(end - 1, begin - 1, -1) if outcome.asked[s] > most), begin - 1) + 1
    asked = [outcome.asked[max(begin - 1, 0)], *outcome.asked[begin:end]]
    moves = [after - before for before, after in itertools.pairwise(asked) if after != before]
    reversals = sum((one > 0) != (two > 0) for one, two in itertools.pairwise(moves))
    fed = settled - begin if settled < end else math.inf
    utilisation = outcome.utilisation(settled if settled < end else max(end - 60, begin), end)
    return Verdict(begin, fed, down - begin, reversals, utilisation)


# ---- scenarios ----


def _in_evaluation(now: float) -> bool:
    """Thirty seconds in every five minutes."""
    return now % 300 >= 270


SCENARIOS = {
    one.name: one
    for one in (
        Scenario("1 to 64", [Group(64, 0.1, 0.27, begins=300)], Policy(1, 64), 3000),
        Scenario("steps", [Group(4, 0.1, 0.2), Group(24, 0.1, 0.2, 900, 2400)], Policy(1, 32), 5400),
        Scenario(
            "bursts", [Group(8, 0.1, 0.2), *(Group(8, 0.1, 0.2, at, at + 60) for at in range(900, 3600, 600))],
            Policy(1, 32), 4200, replicas=6,
        ),
        Scenario("slow starts", [Group(16, 0.1, 0.3, begins=120)], Policy(1, 32), 2400, start_s=240.0),
        Scenario("evaluation", [Group(12, 0.1, 0.2, pauses=_in_evaluation)], Policy(1, 32), 3600),
        Scenario("one never starts", [Group(8, 0.1, 0.3, begins=120)], Policy(1, 32), 2400, broken=1),
        Scenario("storage", [Group(8, 0.1, 0.2)], Policy(1, 16), 2400, storage=60.0),
        Scenario("restarts", [Group(32, 0.1, 0.2, 60, 1800)], Policy(1, 40), 4800, restarts=(130, 600, 2300, 2900)),
        Scenario("more than max", [Group(64, 0.1, 0.3)], Policy(2, 8), 1200),
        Scenario(
            "to none and back", [Group(4, 0.1, 0.2, 60, 900), Group(4, 0.1, 0.2, 2400)], Policy(0, 8), 3600, replicas=0
        ),
    )
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    """Simulate and print; 0."""
    parser = argparse.ArgumentParser(prog="scripts/simulate-fleet", description="Scale a fleet in simulation.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of: {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default 0)")
    args = parser.parse_args(words)
    if unknown := [name for name in args.scenarios if name not in SCENARIOS]:
        parser.error(f"there is no scenario {unknown[0]!r}; there are: {', '.join(SCENARIOS)}")
    for name in args.scenarios or SCENARIOS:
        outcome = simulate(SCENARIOS[name], args.seed)
        for line in described(outcome):
            print(line)
    return 0


def described(outcome: Outcome) -> Iterator[str]:
    """For people: how each change was followed."""
    scenario = outcome.scenario
    policy = scenario.policy
    yield (
        f"{scenario.name}: {policy.least} to {policy.most} loaders of {scenario.workers} workers, "
        f"start {scenario.start_s:g} s"
    )
    for one in judge(outcome):
        demand = max(outcome.demand[one.at : one.at + 60], default=0.0)
        asked = outcome.asked[one.at :]
        yield (
            f"  from {one.at:5} s: {demand:6.1f} workers wanted ({needed(demand, scenario):2} loaders); fed after "
            f"{one.up_s:4.0f} s, none too many after {one.down_s:4.0f} s, {one.reversals} reversals, "
            f"then {one.utilisation:6.1%} computing; {min(asked)} to {max(asked)} asked for"
        )


if __name__ == "__main__":
    sys.exit(main())
