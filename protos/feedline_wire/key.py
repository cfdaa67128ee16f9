"""A batch's identity.

A batch is a pure function of its key. Nothing else decides what is in it: not which replica answers, how many workers
it has, or which keys were asked for before.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from feedline_wire.errors import InvalidRequest

if TYPE_CHECKING:
    from feedline_wire import loader_pb2 as pb

MOST_ROWS_PAST = 1 << 12
"""Rows of a batch of a smaller view, which goes through several epochs: of a view of one sample, in blocks, 0.6 s of a
worker (docs/design.md)."""


def most_rows(samples: int, *, is_batched: bool = False) -> int:
    """Rows of the largest batch of a view of so many samples, or of so many ready batches."""
    return samples if is_batched else max(samples, MOST_ROWS_PAST)


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


def to_text(key: Key) -> str:
    """All of a key in a word that is safe in a shell and a log: `digits/train/shuffle/7/3/7552/64/0a1b…`."""
    numbers = (key.seed, key.epoch, key.offset, key.rows)
    from urllib.parse import quote  # 10 ms, and most never write or read one

    names = (quote(name, safe=":") for name in (key.dataset, key.view, key.order))
    return "/".join([*names, *map(str, numbers), key.fingerprint.hex()])


def from_text(text: str) -> Key:
    """The key that `to_text` wrote. Raises InvalidRequest if it is none."""
    from urllib.parse import unquote

    try:
        dataset, view, order, *numbers, fingerprint = map(unquote, text.strip().split("/"))
        seed, epoch, offset, rows = map(int, numbers)
        key = Key(dataset, bytes.fromhex(fingerprint), view, order, seed, epoch, offset, rows)
    except ValueError:
        key = None
    if key is None or not key.dataset or min(key.seed, key.epoch, key.offset, key.rows - 1) < 0:
        raise InvalidRequest(
            f"{text[:200]!r} is no batch's key; wanted what `batch.key` is, such as "
            f"digits/train/shuffle/7/3/7552/64/0a1b"
        )
    return key


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
