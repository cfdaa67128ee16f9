"""Which versions of the contract a side speaks, and what a trainer and a loader have in common.

A trainer of one release works with the loaders of the release before and after: the range of versions is as wide as
that takes, and additions are optional fields. What an older peer must act on has a feature's name.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from feedline_wire import OLDEST_PROTOCOL, PROTOCOL, VERSION
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import ProtocolMismatch

CHECKSUM = "checksum"
"""The feature of a loader that seals its messages with a checksum where a trainer wishes it."""

COMPRESSION = "compression"
"""The feature of a side that can compress batches or read compressed ones, and may. Said where that is so."""

STARTING = "starting"
"""The feature of a trainer that knows LoaderStarting and NoLoaderHere; another is told LoaderBusy instead, for which it
waits as well."""

FEATURES = frozenset({CHECKSUM, STARTING})
"""What this release has beside the contract's first form. A name is never used again for something else."""

FIRST_RELEASE = 2
"""What feedline 0.1 speaks. It says neither a range nor, as a trainer, its package version."""

Side = Literal["trainer", "loader"]


class Agreement(NamedTuple):
    """What two peers have in common."""

    protocol: int
    features: frozenset[str]


@dataclass(frozen=True, slots=True)
class Peer:
    """What one side speaks."""

    side: Side
    name: str
    """As an error says it: "this trainer", "the loader at a:1"."""
    version: str
    """Of the feedline package."""
    oldest: int
    newest: int
    features: frozenset[str]

    def __str__(self) -> str:
        release = self.version or ("0.1" if self.newest == FIRST_RELEASE else "of an unknown version")
        versions = (
            f"version {self.newest}" if self.oldest == self.newest else f"versions {self.oldest} to {self.newest}"
        )
        return f"{self.name} (feedline {release}) speaks {versions}"

    def having(self, more: Iterable[str]) -> "Peer":
        """It with more features."""
        return replace(self, features=self.features.union(more))

    def fields(self) -> dict[str, Any]:
        """The fields of a message that say so."""
        return {
            "protocol": self.newest,
            "oldest_protocol": self.oldest,
            "features": sorted(self.features),
            "version": self.version,
        }


@functools.cache
def here(side: Side) -> Peer:
    """What this process speaks as a trainer or a loader."""
    return Peer(side, f"this {side}", VERSION, OLDEST_PROTOCOL, PROTOCOL, FEATURES)


def read(message: pb.DescribeRequest | pb.Description | pb.FetchRequest, side: Side, name: str) -> Peer:
    """What the other side says that it speaks; `name` is what errors call it."""
    oldest = message.oldest_protocol or message.protocol
    return Peer(side, name, message.version, oldest, message.protocol, frozenset(message.features))


def first_release(side: Side, name: str) -> Peer:
    """A peer of feedline 0.1, known by what it does not say."""
    return Peer(side, name, "0.1", FIRST_RELEASE, FIRST_RELEASE, frozenset())


def agree(ours: Peer, theirs: Peer) -> Agreement:
    """The newest version that both speak and the features that both have.

    ProtocolMismatch if there is no such version: it names the versions of both and the side to update.
    """
    if not 1 <= theirs.oldest <= theirs.newest:
        raise ProtocolMismatch(
            f"{theirs.name} says that it speaks versions {theirs.oldest} to {theirs.newest} of feedline's protocol, "
            f"which is no range; {ours}"
        )
    newest = min(ours.newest, theirs.newest)
    if newest < max(ours.oldest, theirs.oldest):
        older = ours if ours.newest < theirs.oldest else theirs
        raise ProtocolMismatch(f"{theirs} of feedline's protocol, {ours}: update feedline in the {older.side}")
    return Agreement(newest, ours.features & theirs.features)
