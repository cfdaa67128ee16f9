"""How an order is named: what a user writes, what a key carries, what a state remembers.

Each order has one canonical text, so that equal orders are equal keys. Defaults are written out in it: a state
that was saved continues in its order although a later feedline has another default.

    shuffle                every sample once, anywhere
    sequential             as the dataset lies
    replacement            each position drawn by itself: in an epoch some samples come twice, some never
    blocks[:SIZE[xWINDOW]] blocks of SIZE neighbours in random order, samples mixed within WINDOW blocks
    blocks:SIZE:in-order   blocks of SIZE neighbours in random order, samples within a block as they lie
    buckets[:SIZE[xWINDOW]] of samples that differ in length: SIZE of about one length together, of each WINDOW buckets
    stream                 of a dataset that is a stream: whatever comes next
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

from feedline_wire.errors import InvalidRequest

Family: TypeAlias = Literal["shuffle", "sequential", "replacement", "blocks", "buckets", "stream"]
FAMILIES: tuple[str, ...] = get_args(Family)

BLOCK_SIZE = 128
"""Samples: what is read at one place. Of a KiB or more each, that is enough for a disk (docs/design.md)."""

BLOCK_WINDOW = 256
"""Blocks: what should fit the loader's page cache, 32768 samples. A batch is then a random draw but for 1 part in 256:
classes that lie together have chi-square / dof 2 (1 + 255 / window, measured in tests/server/order/test_quality.py)."""

BUCKET_SIZE = 32
"""Samples: the default batch."""

BUCKET_WINDOW = 256
"""Buckets that are sorted together. Of lengths as words in sentences have (lognormal, median 20) padding to the longest
of a batch is then 3 % of what is sent; 9 % with 64, 1 % with 1024, 72 % without (tests/server/order/test_buckets)."""

LARGEST_SORTED = 1 << 20
"""Samples of a window of buckets, which is drawn whole: 8 MiB."""

LARGEST_NUMBER = 10**9
"""Of a block's or a window's size: more than any view needs, little enough for 64 bits in every product."""

FORMS = (
    "shuffle, sequential, replacement, blocks, blocks:SIZE, blocks:SIZExWINDOW, blocks:SIZE:in-order; and of samples "
    "that differ in length buckets, buckets:SIZE, buckets:SIZExWINDOW"
)
"""What may be written, for messages."""

_BLOCKS = r"blocks(?::(?P<size>[0-9]{1,10})(?:x(?P<window>[0-9]{1,10})|(?P<in_order>:in-order))?)?"
_BUCKETS = r"buckets(?::(?P<size>[0-9]{1,10})(?:x(?P<window>[0-9]{1,10}))?)?"


@dataclass(frozen=True, slots=True)
class Order:
    """An order that was named. `str()` of it is the canonical text."""

    family: Family
    size: int = 0
    """Samples of a block or bucket, if it is of those."""
    window: int = 0
    """Blocks whose samples are mixed, or buckets that are sorted together; 0: samples stay as they lie."""

    def __str__(self) -> str:
        if not self.size:
            return self.family
        return f"{self.family}:{self.size}" + (f"x{self.window}" if self.window else ":in-order")


@lru_cache(maxsize=64)
def parse(text: str) -> Order:
    """The order that a text names. InvalidRequest, saying what may be written, if it names none."""
    match text:
        case "shuffle" | "sequential" | "replacement" | "stream":
            return Order(text)
    if found := re.fullmatch(_BLOCKS, text):
        return _blocks(text, found)
    if found := re.fullmatch(_BUCKETS, text):
        return _buckets(text, found)
    raise InvalidRequest(f"there is no order {_short(text)}; there is: {FORMS}")


def _blocks(text: str, found: re.Match[str]) -> Order:
    size = BLOCK_SIZE if found["size"] is None else int(found["size"])
    window = 0 if found["in_order"] else BLOCK_WINDOW if found["window"] is None else int(found["window"])
    if not 1 <= size <= LARGEST_NUMBER or not (found["in_order"] or 1 <= window <= LARGEST_NUMBER):
        raise InvalidRequest(
            f"the order {text!r} makes no sense: a block has 1..{LARGEST_NUMBER} samples and a window as many blocks; "
            f"'blocks:{max(size, 1)}:in-order' leaves the samples of a block as they lie"
        )
    return Order("blocks", size, window)


def _buckets(text: str, found: re.Match[str]) -> Order:
    size = BUCKET_SIZE if found["size"] is None else int(found["size"])
    window = BUCKET_WINDOW if found["window"] is None else int(found["window"])
    if not 1 <= size * window <= LARGEST_SORTED:
        raise InvalidRequest(
            f"the order {text!r} makes no sense: a bucket has a batch's samples, and a window of buckets, which is "
            f"sorted as a whole, has 1..{LARGEST_SORTED} samples, such as 'buckets:{BUCKET_SIZE}x{BUCKET_WINDOW}'"
        )
    return Order("buckets", size, window)


def _short(text: str) -> str:
    """A text that arrived, for a message: a hostile one may have half a megabyte."""
    return repr(text) if len(text) <= 64 else f"{text[:64]!r}… ({len(text)} characters)"
