"""What a fleet on Ray is, and what its replicas say of themselves: values that travel between actors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from feedline.connection.credentials import Credentials
from feedline.watching.scaling import Policy, Recommendation
from feedline_wire.errors import InvalidRequest
from feedline_wire.text import duration

NAMESPACE = "feedline"
"""Of every actor, so that a fleet is found from any job of the cluster."""

REGISTRY, CONTROLLER, REPLICA = "registry", "controller", "replica-"

State: TypeAlias = Literal["starting", "serving", "failed", "draining", "ended"]
"""failed: its loader ended instead of serving, or did not begin to serve in time, and is started again in a while."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """What was asked for, once and for all."""

    name: str
    words: tuple[str, ...]
    """Of `feedline serve`, for every loader."""
    folders: tuple[str, ...]
    """Where their Python finds modules."""
    workers: int
    policy: Policy
    start_timeout_s: float
    drain_timeout_s: float
    credentials: Credentials
    """With which the controller asks loaders what trainers want; without a token of its own in it."""

    @property
    def target(self) -> str:
        """What a trainer writes."""
        return f"ray:{self.name}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica says of itself, each second."""

    name: str
    """`replica-0` and so on."""
    state: State
    """What its loader does: `starting`, `serving`, `failed` (started again in a while), `draining` or `ended`."""
    since_s: float
    """In this state."""
    address: str = ""
    """While it serves."""
    node: str = ""
    """Its host in the cluster."""
    pid: int = 0
    """Of the actor's process."""
    starts: int = 0
    """Of its loader, in this life of the actor."""
    reason: str = ""
    """Why the loader ended last."""

    def __str__(self) -> str:
        at = f" at {self.address}" if self.address else ""
        why = f": {self.reason}" if self.reason else ""
        if self.state == "serving":
            why = f", started {self.starts} times: {self.reason}" if self.reason and self.starts > 1 else ""
        return f"{self.name} {self.state}{at} for {duration(self.since_s)}{why}"


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """What a fleet is now."""

    name: str
    """As it was started."""
    words: tuple[str, ...]
    """Of `feedline serve`, for every loader."""
    workers: int
    """Of each loader, a core each."""
    least: int
    """Replicas that there are at any time."""
    most: int
    """Replicas that there may be."""
    recommendation: Recommendation | None
    """How many replicas there should be, and why. None until the controller has looked for the first time."""
    replicas: tuple[Report, ...]
    """Those that have said something."""
    unplaced: tuple[str, ...]
    """Replicas of which nothing is known: Ray has no node for them yet, or they are just being started."""

    @property
    def target(self) -> str:
        """What a trainer writes."""
        return f"ray:{self.name}"

    @property
    def serving(self) -> int:
        """Replicas that serve."""
        return sum(one.state == "serving" for one in self.replicas)

    def __str__(self) -> str:
        many = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        lines = [
            f"{self.target}: {self.serving} of {many} replicas serve, {self.workers} workers each: "
            f"feedline serve {' '.join(self.words)}",
            *(f"  {one}" for one in self.replicas),
            *(f"  {name}: waits for a node with {self.workers} free CPUs" for name in self.unplaced),
        ]
        return "\n".join([*lines, *([f"  {self.recommendation}"] if self.recommendation else [])])


def checked_name(name: str) -> str:
    """The name of a fleet; InvalidRequest if it is none."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"the name of a fleet is {name!r}; wanted a letter, and then up to 62 letters, digits, '-' and '_', such "
            f"as digits"
        )
    return name


def checked_replicas(replicas: int | Sequence[int]) -> tuple[int, int]:
    """The least and the most of them; InvalidRequest if that makes no sense."""
    found = (replicas, replicas) if isinstance(replicas, int) else tuple(replicas)
    if len(found) != 2 or not all(isinstance(one, int) for one in found) or not 1 <= found[0] <= found[1]:
        raise InvalidRequest(f"replicas is {replicas!r}; wanted a number, or (min, max) with 1 <= min <= max")
    return found[0], found[1]


def actor_name(fleet: str, part: str) -> str:
    """Of one of a fleet's actors, in NAMESPACE."""
    return f"{fleet}/{part}"
