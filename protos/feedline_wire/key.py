"""A batch's identity.

A batch is a pure function of its key. Nothing else decides what is in it: not which replica answers, how many workers
it has, or which keys were asked for before.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feedline_wire import loader_pb2 as pb


@dataclass(frozen=True, slots=True)
class Key:
    """Rows `offset .. offset + rows` of one epoch's order; positions past the view's end run on into the next epoch."""

    dataset: str
    fingerprint: bytes
    view: str
    order: str
    seed: int
    epoch: int
    offset: int
    rows: int

    def __reduce__(self) -> tuple[object, ...]:
        # As an argument list: dataclasses' own way for slots asks for its fields by name on both sides, 4 us a key.
        return Key, (
            self.dataset, self.fingerprint, self.view, self.order, self.seed, self.epoch, self.offset, self.rows,
        )  # fmt: skip

    def __str__(self) -> str:
        positions = f"{self.offset}..{self.offset + self.rows - 1}"
        return f"{self.dataset}/{self.view} {self.order} seed={self.seed} epoch={self.epoch} positions {positions}"


def to_message(key: Key) -> "pb.Key":
    """The key as it travels."""
    from feedline_wire import loader_pb2 as pb

    return pb.Key(
        dataset=key.dataset,
        fingerprint=key.fingerprint,
        view=key.view,
        order=key.order,
        seed=key.seed,
        epoch=key.epoch,
        offset=key.offset,
        rows=key.rows,
    )


def from_message(message: "pb.Key") -> Key:
    """The key that arrived; its numbers are in range by their wire types, their meaning is checked by the loader."""
    return Key(
        dataset=message.dataset,
        fingerprint=message.fingerprint,
        view=message.view,
        order=message.order,
        seed=message.seed,
        epoch=message.epoch,
        offset=message.offset,
        rows=message.rows,
    )
