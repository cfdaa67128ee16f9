"""The order for data larger than memory: neighbours stay near each other, so few places are read at a time.

A view is cut into blocks of neighbours. One permutation mixes the blocks, another one the samples of each window of
so many blocks that now stand together. So a batch reads from one window, and what is read there is soon read again;
how random a batch is depends on the number of blocks in a window, not on how many samples they have.

Without a window samples stay as they lie within their block: with batches of a block's size, a batch is one contiguous
piece of the view.
"""

import numpy as np
from numpy.typing import NDArray

from feedline_server.order.permutation import permuted, random_below

Indices = NDArray[np.int64]


def block_indices(name: str, samples: int, size: int, window: int, positions: Indices) -> Indices:
    """What stands at each of `positions`, all below `samples`, in the order of that name.

    `size` is that of a block, `window` the blocks whose samples are mixed; with 0 they stay as they lie.
    """
    cut = _Cut(name, samples, min(size, samples), in_order=not window)
    return cut.indices(positions if not window else _mixed(name, cut, window, positions))


def due_indices(  # noqa: PLR0917
    name: str, samples: int, size: int, ahead: int, offset: int, end: int
) -> Indices:
    """The blocks that ought to be read from a disk, each as a whole, while positions `offset` to `end` are served.

    A batch may have a sample of every block of its window, so blocks are due up to a window, `ahead` positions, before
    their turn. Each is due at one position, so an epoch reads each once, also in many processes and in any order. At
    the beginning as much is read ahead as was served: the first batch does not wait for a whole window, and a little of
    an epoch does not have all of a window read.
    """
    cut = _Cut(name, samples, min(size, samples), in_order=False)

    def due_before(position: int) -> int:
        """Where the first block begins that is due at this position, or later."""
        until = np.array([min(position + min(position, ahead), samples)])
        place = cut.place(until)
        return int(cut.start(place + (cut.start(place) < until))[0])

    return cut.indices(np.arange(due_before(offset), due_before(end), dtype=np.int64))


class _Cut:
    """Blocks, and the places that they have in an epoch.

    If the size does not divide the view, one block is short. It has a random place, so that no samples are always the
    last; where samples stay as they lie it is the last, so that the batches before it are whole blocks.
    """

    def __init__(self, name: str, samples: int, size: int, *, in_order: bool) -> None:
        self.size = size
        self.full, self.short = divmod(samples, size)
        self.places = self.full + (self.short > 0)
        self._name = f"{name} blocks"
        ends = in_order or not self.short
        self._short_place = self.full if ends else random_below(f"{name} short block", self.places)

    def place(self, positions: Indices) -> Indices:
        """The place in which each position lies."""
        after = positions >= self._short_place * self.size + self.short
        return (positions - after * self.short) // self.size + after

    def start(self, places: Indices) -> Indices:
        """The first position of each place; of `places` itself, the end of all."""
        return places * self.size - (places > self._short_place) * (self.size - self.short)

    def indices(self, positions: Indices) -> Indices:
        """The sample at each position, while all are as they lie within their blocks."""
        places = self.place(positions)
        rows = positions - self.start(places)
        blocks = np.full(len(positions), self.full)
        is_full = places != self._short_place
        among_full = places - (places > self._short_place)
        blocks[is_full] = permuted(self._name, self.full, among_full[is_full].view(np.uint64))
        blocks *= self.size
        blocks += rows
        return blocks


def _mixed(name: str, cut: _Cut, window: int, positions: Indices) -> Indices:
    """Where each position is sent to within its window: a permutation of its own for each.

    Windows differ by at most a block: a last one of what is left over would be hardly mixed.
    """
    count = -(-cut.places // window)
    least, larger = divmod(cut.places, count)  # so many blocks in each window, and one more in the first `larger`
    places = cut.place(positions)
    windows = np.maximum(places // (least + 1), (places - larger) // least)
    sent = np.empty_like(positions)
    for number in np.unique(windows).tolist():
        rows = np.flatnonzero(windows == number)
        edges = np.array([number, number + 1])
        begin, end = cut.start(edges * least + np.minimum(edges, larger)).tolist()
        within = (positions[rows] - begin).view(np.uint64)
        sent[rows] = permuted(f"{name} window {number:d}", end - begin, within) + begin
    return sent
