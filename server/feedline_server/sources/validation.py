"""A share of the view `train` as the view `validation`, of every kind of data.

A sample is held out if the hash of (validation_seed, identity) is below the share: one threshold for all. Its identity
is its name, that of its subject, or its number. So nothing depends on other samples: one that is added moves no other.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedline_server.order.permutation import drawn
from feedline_server.sources.selection import Ranges, Selection, compact, ids_at, join
from feedline_wire.errors import DataError
from feedline_wire.listing import listed

TRAIN, VALIDATION = "train", "validation"

BITS = 62
"""Of a hash. What is drawn below 2^62 is an int64 whatever it is."""

PIECE = 1 << 20
"""Samples whose numbers are hashed at once: 8 MiB."""


@dataclass(frozen=True, slots=True)
class Identities:
    """What samples are called, or groups of them that belong together."""

    names: Sequence[str]
    starts: Sequence[int] | None = None
    """The first sample of each name, and the end of all; None: a name is of one sample."""


@dataclass(frozen=True, slots=True)
class Split:
    """How large a share, and which."""

    share: float
    seed: int

    def applied(
        self, views: Mapping[str, Selection], identities: Identities | None, place: Path
    ) -> dict[str, Selection]:
        """The views with one more, `validation`, of samples that `train` is then without.

        DataError if there is no such view to take from, one of that name already, or if one would be empty.
        """
        if VALIDATION in views or TRAIN not in views:
            wrong = f"there is a view {VALIDATION!r} already" if VALIDATION in views else f"there is no view {TRAIN!r}"
            raise DataError(
                f"{place}: validation_split = {self.share} takes its samples out of {TRAIN!r}, and {wrong} (the views "
                f"are {listed(views)}); leave validation_split out, or declare other views"
            )
        whole = views[TRAIN]
        if identities is not None and identities.starts is not None:
            parts = self._groups(whole, identities.names, identities.starts)
        else:
            parts = self._samples(whole, None if identities is None else identities.names)
        for view, selection in zip((TRAIN, VALIDATION), parts, strict=True):
            if not len(selection):
                raise DataError(
                    f"{place}: validation_split = {self.share} leaves the view {view!r} of {len(whole)} samples "
                    "without any; give it another share, or draw others with validation_seed = 1, 2, …"
                )
        rest = {view: selection for view, selection in views.items() if view != TRAIN}
        return dict(zip((TRAIN, VALIDATION), parts, strict=True)) | rest

    def _samples(self, whole: Selection, names: Sequence[str] | None) -> tuple[Selection, Selection]:
        by_name = None if names is None else np.fromiter(map(self._is_held, names), bool, len(names))
        kept: list[NDArray[np.int64]] = []
        held: list[NDArray[np.int64]] = []
        for start in range(0, len(whole), PIECE):
            ids = ids_at(whole, np.arange(start, min(start + PIECE, len(whole))))
            is_held = by_name[ids] if by_name is not None else self._are_held(ids)
            kept.append(ids[~is_held])
            held.append(ids[is_held])
        return compact(np.concatenate(kept)), compact(np.concatenate(held))

    def _groups(self, whole: Selection, names: Sequence[str], starts: Sequence[int]) -> tuple[Selection, Selection]:
        assert not isinstance(whole, np.ndarray), "a view of groups is of whole groups"
        inside = sorted(whole.parts if isinstance(whole, Ranges) else (whole,), key=lambda part: part.start)
        begins = [part.start for part in inside]
        parts: tuple[list[range], list[range]] = ([], [])
        for name, group in zip(names, map(range, starts, starts[1:]), strict=True):
            place = bisect_right(begins, group.start) - 1
            if place >= 0 and group.start in inside[place]:
                parts[self._is_held(name)].append(group)
        return join(parts[0]), join(parts[1])

    def _is_held(self, name: str) -> bool:
        digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, key=self._key.encode()).digest()
        return int.from_bytes(digest, "little") >> (64 - BITS) < self._threshold

    def _are_held(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        return drawn(self._key, 1 << BITS, ids.astype(np.uint64)) < self._threshold

    @property
    def _key(self) -> str:
        return f"feedline validation 1 seed={self.seed:d}"

    @property
    def _threshold(self) -> int:
        return int(self.share * (1 << BITS))
