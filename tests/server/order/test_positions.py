"""What stands where in an epoch's order: everything once, the same for whoever asks, and the same for ever."""

from collections.abc import Iterator
from hashlib import shake_128

import numpy as np
import pytest
from numpy.typing import NDArray

from feedline_server.order import positions as orders
from feedline_server.order.permutation import SMALL
from feedline_server.order.positions import ORDER_VERSIONS, ORDERS, run_ahead, run_indices, view_indices
from feedline_wire.errors import InvalidRequest
from feedline_wire.orders import parse

UINT64_MAX = 2**64 - 1
PIECE = 1 << 16


def shuffled(samples: int, positions: object, *, seed: int = 7, epoch: int = 3) -> NDArray[np.int64]:
    return view_indices("shuffle", samples, seed, epoch, np.asarray(positions, np.int64))


# ---- the reference: the same order, one position at a time, in whole numbers that cannot overflow ----


class SlowOrder:
    """A shuffle written for reading. It must never be made faster by borrowing from the real one."""

    def __init__(self, samples: int, seed: int, epoch: int, name: str | None = None) -> None:
        self.samples = samples
        self.name = name or f"feedline order 1: shuffle samples={samples} seed={seed} epoch={epoch}"
        self.column_bits = (samples - 1).bit_length() // 2
        self.columns = 1 << self.column_bits
        self.rows = (samples + self.columns - 1) // self.columns

    def index(self, position: int) -> int:
        if self.samples <= 1024:
            words = self._words(self.samples)
            return sorted(range(self.samples), key=lambda index: words[index])[position]
        cell = self._forwards(position)
        while cell >= self.samples:
            cell = self._forwards(cell)
        return cell

    def position(self, index: int) -> int:
        """The inverse: where an index stands. Of views above 1024 samples."""
        cell = self._backwards(index)
        while cell >= self.samples:
            cell = self._backwards(cell)
        return cell

    def _words(self, count: int) -> list[int]:
        return words(self.name, count)

    def _forwards(self, cell: int) -> int:
        row, column = divmod(cell, self.columns)
        keys = self._words(8)
        for i in range(0, 8, 2):
            row = (row + self._turn(column, keys[i])) % self.rows
            column ^= self._flip(row, keys[i + 1])
        return row * self.columns + column

    def _backwards(self, cell: int) -> int:
        row, column = divmod(cell, self.columns)
        keys = self._words(8)
        for i in (6, 4, 2, 0):
            column ^= self._flip(row, keys[i + 1])
            row = (row - self._turn(column, keys[i])) % self.rows
        return row * self.columns + column

    def _turn(self, column: int, key: int) -> int:
        return (mixed(column ^ key) >> 32) * self.rows >> 32

    def _flip(self, row: int, key: int) -> int:
        return mixed(row ^ key) >> (64 - self.column_bits)


def mixed(word: int) -> int:
    word = word * 0xBF58476D1CE4E5B9 % 2**64
    word ^= word >> 32
    return word * 0x94D049BB133111EB % 2**64


def words(name: str, count: int) -> list[int]:
    digest = shake_128(name.encode()).digest(8 * count)
    return [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(count)]


class SlowBlocks:
    """Blocks written for reading: the whole epoch, block by block, window by window."""

    def __init__(self, samples: int, size: int, window: int, seed: int, epoch: int) -> None:
        text = f"blocks:{size}x{window}" if window else f"blocks:{size}:in-order"
        name = f"feedline order 1: {text} samples={samples} seed={seed} epoch={epoch}"
        size = min(size, samples)
        full, short = divmod(samples, size)
        mixed_blocks = SlowOrder(full, seed, epoch, f"{name} blocks")
        blocks = [list(range(b * size, b * size + size)) for b in (mixed_blocks.index(i) for i in range(full))]
        if short:
            place = words(f"{name} short block", 1)[0] * (full + 1) >> 64 if window else full
            blocks.insert(place, list(range(full * size, samples)))
        self.order = []
        for number, together in enumerate(evenly(blocks, window) if window else [blocks]):
            lying = [sample for block in together for sample in block]
            within = SlowOrder(len(lying), seed, epoch, f"{name} window {number}") if window else None
            self.order += [lying[within.index(i)] if within else lying[i] for i in range(len(lying))]


def evenly(blocks: list[list[int]], window: int) -> Iterator[list[list[int]]]:
    count = -(-len(blocks) // window)
    least, larger = divmod(len(blocks), count)
    for number in range(count):
        mine = least + (number < larger)
        yield blocks[:mine]
        blocks = blocks[mine:]


def slow_draw(samples: int, seed: int, epoch: int, position: int) -> int:
    first, second = words(f"feedline order 1: replacement samples={samples} seed={seed} epoch={epoch}", 2)
    word = mixed(position ^ first)
    word = mixed(word ^ word >> 32 ^ second)
    return (word ^ word >> 32) * samples >> 64


# ---- everything once ----


def is_a_bijection(samples: int, order: str = "shuffle") -> bool:
    seen = np.zeros(samples, bool)
    for start in range(0, samples, PIECE):
        positions = np.arange(start, min(start + PIECE, samples))
        seen[view_indices(order, samples, 7, 3, positions)] = True
    return bool(seen.all())  # as many positions as indices, so all seen means each seen once


def test_every_view_of_up_to_2000_samples_is_served_once_and_whole() -> None:
    wrong = [
        samples
        for samples in range(2001)
        if not np.array_equal(np.sort(shuffled(samples, np.arange(samples))), np.arange(samples))
    ]

    assert wrong == []


BLOCKS = ["blocks", "blocks:1x1", "blocks:1x3", "blocks:7x1", "blocks:7x3", "blocks:64x5", "blocks:7:in-order"]


@pytest.mark.parametrize("order", BLOCKS)
def test_blocks_serve_every_view_once_and_whole_however_short_the_last_one_is(order: str) -> None:
    sizes = [*range(1, 130), 255, 256, 257, 1023, 1024, 1025, 2048, 5000]

    wrong = [
        samples
        for samples in sizes
        if not np.array_equal(np.sort(view_indices(order, samples, 7, 3, np.arange(samples))), np.arange(samples))
    ]

    assert wrong == []


@pytest.mark.parametrize(
    "order", ["blocks", "blocks:100x16", "blocks:4096x1", "blocks:1000000000x1", "blocks:64:in-order"]
)
@pytest.mark.parametrize("samples", [60_000, 65_537, 1_281_167])
def test_blocks_serve_real_sizes_once_and_whole(order: str, samples: int) -> None:
    assert is_a_bijection(samples, order)


@pytest.mark.parametrize("samples", [4**k + d for k in range(5, 13) for d in (-1, 0, 1)])
def test_sizes_around_powers_of_four_are_served_once_and_whole(samples: int) -> None:
    """A block one bit short serves one sample twice and one never at 4^k + 1 (grain's, at 65537 and three more)."""
    assert is_a_bijection(samples)


@pytest.mark.parametrize("samples", [1025, 1031, 2003, 60_000, 99_991, 1_000_003, 1_281_167, 15_485_863])
def test_primes_and_sizes_of_real_datasets_are_served_once_and_whole(samples: int) -> None:
    assert is_a_bijection(samples)


LARGE = [10**9, 2**30 + 1, 4**15 - 1, 2**40, 2**40 + 1, 10**15, 2**62, 2**63 - 1]


@pytest.mark.parametrize("samples", LARGE)
def test_a_huge_view_goes_back_from_each_index_to_its_position(samples: int) -> None:
    """It cannot be served whole here; having an inverse is what makes it a bijection."""
    slow = SlowOrder(samples, seed=7, epoch=3)
    positions = [0, 1, samples // 2, samples - 2, samples - 1, *(samples * i // 101 for i in range(1, 101))]

    indices = shuffled(samples, positions).tolist()

    assert all(0 <= index < samples for index in indices)
    assert [slow.position(index) for index in indices] == positions


def test_a_million_neighbouring_positions_of_a_billion_hold_a_million_samples() -> None:
    assert len(np.unique(shuffled(10**9, np.arange(5 * 10**8, 5 * 10**8 + 10**6)))) == 10**6


def test_a_batch_of_blocks_reads_from_one_window() -> None:
    """Of a terabyte nobody has in memory: 65,536 positions in a row are 512 pieces of 128 neighbours."""
    indices = view_indices("blocks:128x512", 10**9, 7, 3, np.arange(10**6, 10**6 + 65536))

    assert len(np.unique(indices)) == 65536
    assert 512 <= len(np.unique(indices // 128)) <= 2 * 512


def test_a_batch_of_a_blocks_size_is_a_contiguous_piece_where_samples_stay_in_order() -> None:
    order = view_indices("blocks:32:in-order", 1000, 7, 3, np.arange(1000))

    starts = [int(order[at]) for at in range(0, 1000, 32)]

    assert [order[at : at + 32].tolist() for at in range(0, 1000, 32)] == [
        list(range(start, min(start + 32, 1000))) for start in starts
    ]
    assert sorted(starts) == list(range(0, 1000, 32))
    assert starts[-1] == 992, "the short block is the last, so that every batch before it is whole"
    assert starts != sorted(starts)


def test_drawing_with_replacement_repeats_some_and_leaves_some_out() -> None:
    drawn = view_indices("replacement", 1000, 7, 3, np.arange(1000))

    assert drawn.min() >= 0
    assert drawn.max() < 1000
    assert len(np.unique(drawn)) == 638  # 1 - 1/e of them are 632


def test_sequential_is_the_order_of_the_view() -> None:
    assert view_indices("sequential", 10, 7, 3, np.array([3, 0, 9, 9])).tolist() == [3, 0, 9, 9]


# ---- the same for whoever asks ----


@pytest.mark.parametrize(
    "samples", [1, 2, 3, 10, 1023, 1024, 1025, 1056, 2048, 2049, 5000, 65_537, 10**9, 2**40, 2**63 - 1]
)
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (7, 3), (UINT64_MAX, UINT64_MAX)])
def test_the_order_is_the_one_of_the_slow_reference(samples: int, seed: int, epoch: int) -> None:
    slow = SlowOrder(samples, seed, epoch)
    positions = sorted({samples * i // 40 for i in range(40)} | {samples - 1})

    assert shuffled(samples, positions, seed=seed, epoch=epoch).tolist() == [slow.index(p) for p in positions]


@pytest.mark.parametrize("samples", [1, 2, 7, 63, 64, 65, 1000, 5003])
@pytest.mark.parametrize(("size", "window"), [(128, 256), (7, 3), (1, 2), (64, 5), (700, 2), (7, 0), (64, 0)])
def test_blocks_are_those_of_the_slow_reference(samples: int, size: int, window: int) -> None:
    order = f"blocks:{size}x{window}" if window else f"blocks:{size}:in-order"

    fast = view_indices(order, samples, 7, 3, np.arange(samples))

    assert fast.tolist() == SlowBlocks(samples, size, window, 7, 3).order


@pytest.mark.parametrize("samples", [1, 2, 10, 1025, 2**32 - 1, 2**32, 2**32 + 1, 10**12, 2**63 - 1])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (7, 3), (UINT64_MAX, UINT64_MAX)])
def test_draws_are_those_of_the_slow_reference(samples: int, seed: int, epoch: int) -> None:
    positions = sorted({samples * i // 40 for i in range(40)} | {samples - 1})

    fast = view_indices("replacement", samples, seed, epoch, np.array(positions))

    assert fast.tolist() == [slow_draw(samples, seed, epoch, position) for position in positions]


ALL = [*ORDERS, "blocks:64x3", "blocks:100x1", "blocks:64:in-order"]


@pytest.mark.parametrize("order", ALL)
@pytest.mark.parametrize("samples", [1000, 5000])
def test_batches_of_every_size_hold_the_same_order(order: str, samples: int) -> None:
    whole = view_indices(order, samples, 7, 3, np.arange(samples))

    for rows in (1, 7, 32, 999, samples):
        batches = (np.arange(start, min(start + rows, samples)) for start in range(0, samples, rows))
        cut = np.concatenate([view_indices(order, samples, 7, 3, batch) for batch in batches])
        assert np.array_equal(cut, whole), rows


@pytest.mark.parametrize("order", ALL)
@pytest.mark.parametrize("samples", [1, 100, 4095, 4096, 4097, 12_295, 10**9])
def test_runs_of_positions_are_cut_from_pieces_that_change_nothing(order: str, samples: int) -> None:
    piece = orders.PIECE
    starts = {0, 1, piece - 1, piece, 2 * piece - 5, samples // 2, samples - 1}
    for offset in sorted(start for start in starts if start < samples):
        for rows in (1, 2, 10, piece - 1, piece, piece + 1, 2 * piece + 3):
            if offset + rows < 3 * samples:  # not through thousands of epochs of one sample
                positions = np.arange(offset, offset + rows, dtype=np.int64)
                run = run_indices(order, samples, 5, 2, offset, rows)
                assert np.array_equal(run, view_indices(order, samples, 5, 2, positions))


@pytest.mark.parametrize("order", ALL)
@pytest.mark.parametrize("samples", [1000, 5000])
def test_positions_may_be_asked_in_any_order_and_twice(order: str, samples: int) -> None:
    whole = view_indices(order, samples, 7, 3, np.arange(samples))
    positions = np.array([samples - 1, 0, 17, 17, 3, 0])

    assert np.array_equal(view_indices(order, samples, 7, 3, positions), whole[positions])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("samples", [10, 5000])
def test_an_answer_belongs_to_its_caller(order: str, samples: int) -> None:
    positions = np.arange(10)
    first = view_indices(order, samples, 7, 3, positions)
    kept = first.copy()

    first[:] = -1

    assert np.array_equal(view_indices(order, samples, 7, 3, positions), kept)
    assert positions.tolist() == list(range(10))


# ---- what to read ahead ----

BLOCKS = [
    ("blocks:64x3", 5003),
    ("blocks:64x3", 64 * 30),
    ("blocks:7x4", 1000),
    ("blocks:100x1", 950),
    ("blocks", 3001),
]


def due(order: str, samples: int, rows: int) -> list[NDArray[np.int64]]:
    """What is due with each batch of an epoch."""
    starts = range(0, samples, rows)
    return [run_ahead(order, samples, 7, 3, start, min(rows, samples - start), most=10**9) for start in starts]


@pytest.mark.parametrize(("order", "samples"), BLOCKS)
@pytest.mark.parametrize("rows", [1, 32, 200, 5003])
def test_every_block_is_due_once_and_as_a_whole(order: str, samples: int, rows: int) -> None:
    size = parse(order).size

    found = due(order, samples, rows)

    assert sorted(np.concatenate(found).tolist()) == list(range(samples))
    for indices in found:
        first_of_runs = indices[np.flatnonzero(np.diff(indices, prepend=-2) != 1)]
        assert (first_of_runs % size == 0).all()


@pytest.mark.parametrize(("order", "samples"), BLOCKS)
def test_blocks_are_due_before_their_window_but_for_the_first_two(order: str, samples: int) -> None:
    """There is nothing before the first; and as much is read ahead as was served, so half of the second is late."""
    named = parse(order)
    window = named.size * named.window
    taken = view_indices(order, samples, 7, 3, np.arange(samples))

    ahead = due(order, samples, 1)

    when = np.empty(samples, np.int64)
    when[np.concatenate(ahead)] = np.repeat(np.arange(samples), [len(indices) for indices in ahead])
    later = taken[2 * window :]
    assert (when[later] < np.arange(2 * window, samples)).all()
    assert (when[later] >= np.arange(2 * window, samples) - 2 * window).all(), "so much earlier is too early to be kept"


@pytest.mark.parametrize(("order", "samples"), BLOCKS)
def test_no_more_is_read_ahead_than_was_served_before_or_a_window(order: str, samples: int) -> None:
    named = parse(order)
    served, ahead = 0, 0

    for indices in due(order, samples, 10):
        served += 10
        ahead += len(indices)
        assert ahead <= served + min(served, named.size * named.window) + named.size


@pytest.mark.parametrize("order", ["shuffle", "sequential", "replacement", "blocks:64:in-order"])
def test_nothing_is_due_in_an_order_that_does_not_come_back_to_neighbours(order: str) -> None:
    assert all(len(indices) == 0 for indices in due(order, 1000, 100))


def test_nothing_is_due_if_it_could_not_be_kept_until_its_turn() -> None:
    """A window of 192 samples that is being served, and half of the next."""
    assert len(run_ahead("blocks:64x3", 5000, 7, 3, 0, 128, most=288)) == 256
    assert len(run_ahead("blocks:64x3", 5000, 7, 3, 0, 128, most=287)) == 0
    assert len(run_ahead("blocks:64x3", 5000, 7, 3, 0, 128, most=0)) == 0


@pytest.mark.parametrize(("most", "ahead"), [(10**9, 512), (1024, 512), (1000, 488), (768, 256)])
def test_what_is_kept_is_a_window_and_what_is_due_ahead_of_it(most: int, ahead: int) -> None:
    size = 64
    taken = view_indices("blocks:64x8", 8192, 7, 3, np.arange(8192))
    asked: list[int] = []
    when = np.empty(8192, np.int64)

    for start in range(0, 8192, 32):
        due_now = run_ahead("blocks:64x8", 8192, 7, 3, start, 32, most=most)
        asked += due_now.tolist()
        when[due_now] = start

    assert sorted(asked) == list(range(8192))
    window_of = np.arange(8192) // 512 * 512
    early = window_of[2048:] - when[taken[2048:]]  # how long before its window each sample's block was asked for
    assert early.max() <= ahead + size
    assert early.max() >= ahead - size


def test_nothing_is_due_past_the_end_of_an_epoch() -> None:
    assert len(run_ahead("blocks:64x3", 1000, 7, 3, 990, 64, most=10**9)) == 0
    assert len(run_ahead("blocks:64x3", 1000, 7, 3, 1000, 64, most=10**9)) == 0
    assert sorted(run_ahead("blocks:64x3", 1000, 7, 3, 0, 3000, most=10**9).tolist()) == list(range(1000))


# ---- past the end ----


def epochs(order: str, samples: int, seed: int, first: int, count: int) -> Iterator[NDArray[np.int64]]:
    return (view_indices(order, samples, seed, first + i, np.arange(samples)) for i in range(count))


@pytest.mark.parametrize("order", ALL)
@pytest.mark.parametrize("samples", [1, 2, 3, 10, 1025, 3000])
def test_positions_past_the_end_run_on_through_the_following_epochs(order: str, samples: int) -> None:
    positions = np.arange(5 * samples)

    line = view_indices(order, samples, 7, 3, positions)

    assert np.array_equal(line, np.concatenate(list(epochs(order, samples, 7, 3, 5))))
    assert np.array_equal(view_indices(order, samples, 7, 3, positions[::-1]), line[::-1])


def test_a_batch_over_the_end_of_a_huge_view_begins_the_next_epoch() -> None:
    end = 10**9

    batch = shuffled(end, np.arange(end - 2, end + 2))

    assert batch[:2].tolist() == shuffled(end, [end - 2, end - 1]).tolist()
    assert batch[2:].tolist() == shuffled(end, [0, 1], epoch=4).tolist()


def test_the_last_epoch_that_can_be_asked_for_runs_on_too() -> None:
    past = SlowOrder(10, seed=7, epoch=UINT64_MAX + 1)

    assert shuffled(10, range(10, 20), epoch=UINT64_MAX).tolist() == [past.index(position) for position in range(10)]


# ---- another seed or epoch is another order ----


def test_no_two_names_share_an_order() -> None:
    names = [(samples, seed, epoch) for samples in (50, 3000) for seed in range(20) for epoch in range(20)]
    names += [(samples, 2**bits, 0) for samples in (50, 3000) for bits in (32, 63)]
    names += [(samples, 0, 2**bits) for samples in (50, 3000) for bits in (32, 63)]

    orders = {shuffled(samples, np.arange(50), seed=seed, epoch=epoch).tobytes() for samples, seed, epoch in names}

    assert len(orders) == len(names)


@pytest.mark.parametrize("samples", [10, 100_003])
def test_seed_3_in_epoch_1_is_not_seed_4_in_epoch_0(samples: int) -> None:
    """Seed and epoch added up would make it so, and runs of neighbouring seeds would share their epochs."""
    first = shuffled(samples, np.arange(samples), seed=3, epoch=1)
    second = shuffled(samples, np.arange(samples), seed=4, epoch=0)

    assert not np.array_equal(first, second)


@pytest.mark.parametrize("order", ["replacement", "blocks:8x2", "blocks:8:in-order"])
def test_no_two_names_share_an_order_of_any_kind(order: str) -> None:
    names = [(samples, seed, epoch) for samples in (500, 3000) for seed in range(10) for epoch in range(10)]

    orders = {view_indices(order, samples, seed, epoch, np.arange(100)).tobytes() for samples, seed, epoch in names}

    assert len(orders) == len(names)


# ---- the same for ever ----


def test_the_order_is_version_1() -> None:
    """The orders below are this version's. If one of them changes, the version must."""
    assert set(ORDER_VERSIONS.values()) == {1}
    assert ORDERS == ("shuffle", "sequential", "replacement", "blocks")
    assert SMALL == 1024


GOLDEN = {
    ("shuffle", 10, 0, 0): [4, 3, 8, 6, 1, 9, 5, 0, 7, 2],
    ("shuffle", 1_000_003, 0, 0): [902756, 553366, 488296, 410084, 818678, 901719, 919687, 446502],
    ("shuffle", 1_000_000_000, 0, 0): [157806818, 239389551, 217401515, 836582890],
    ("shuffle", 10, 2**63 + 5, 12): [0, 1, 5, 9, 6, 3, 4, 2, 8, 7],
    ("shuffle", 1_000_003, 2**63 + 5, 12): [342704, 684599, 253852, 770004, 772385, 128088, 62442, 47194],
    ("shuffle", 1_000_000_000, 2**63 + 5, 12): [835046409, 96524418, 50139522, 922359958],
    ("replacement", 10, 0, 0): [4, 8, 0, 4, 6, 8, 2, 3, 6, 6],
    ("replacement", 1_000_003, 2**63 + 5, 12): [756873, 609613, 716548, 846806, 941346, 394233, 359284, 380997],
    ("replacement", 1_000_000_000, 0, 0): [947875228, 996572309, 819704629, 460094267],
    ("blocks", 10, 0, 0): [7, 4, 5, 8, 9, 1, 3, 2, 0, 6],
    ("blocks", 1_000_003, 0, 0): [11070, 314432, 616127, 385475, 364359, 917080, 146057, 861054],
    ("blocks:4x2", 10, 0, 0): [4, 8, 7, 9, 5, 6, 3, 1, 2, 0],
    ("blocks:4x2", 1_000_003, 2**63 + 5, 12): [356005, 176114, 176115, 356006, 356004, 176113, 176112, 356007],
    ("blocks:4x2", 1_000_000_000, 0, 0): [950618137, 800029138, 800029136, 950618139],
    ("blocks:4:in-order", 10, 2**63 + 5, 12): [4, 5, 6, 7, 0, 1, 2, 3, 8, 9],
    ("blocks:4:in-order", 1_000_003, 0, 0): [897724, 897725, 897726, 897727, 414292, 414293, 414294, 414295],
    ("blocks:4:in-order", 1_000_000_000, 0, 0): [454013584, 454013585, 454013586, 454013587],
    ("sequential", 10, 0, 0): [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    ("sequential", 1_000_003, 0, 0): [0, 1, 2, 3, 4, 5, 6, 7],
    ("sequential", 1_000_000_000, 0, 0): [0, 1, 2, 3],
}


@pytest.mark.parametrize(("name", "indices"), GOLDEN.items())
def test_the_order_is_what_it_always_was(name: tuple[str, int, int, int], indices: list[int]) -> None:
    """Written down on the day of version 1: a run of last year must resume where it stopped."""
    order, samples, seed, epoch = name

    assert view_indices(order, samples, seed, epoch, np.arange(len(indices))).tolist() == indices


# ---- what makes no sense ----


@pytest.mark.parametrize("order", ORDERS)
def test_no_positions_have_no_indices(order: str) -> None:
    nothing = np.empty(0, np.int64)

    assert view_indices(order, 0, 7, 3, nothing).tolist() == []
    assert view_indices(order, 10**9, 7, 3, nothing).dtype == np.int64


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("samples", [1, 10, 5000])
def test_indices_are_int64(order: str, samples: int) -> None:
    assert view_indices(order, samples, 7, 3, np.arange(2 * samples)).dtype == np.int64


@pytest.mark.parametrize("order", ORDERS)
def test_an_empty_view_has_no_position(order: str) -> None:
    with pytest.raises(InvalidRequest, match="the view has 0 samples and 3 were asked for"):
        view_indices(order, 0, 7, 3, np.arange(3))


@pytest.mark.parametrize("order", ORDERS)
def test_positions_count_from_0(order: str) -> None:
    with pytest.raises(InvalidRequest, match="position -2 was asked for"):
        view_indices(order, 10, 7, 3, np.array([0, -2, 5]))


def test_an_unknown_order_is_answered_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match="no order 'random'; there is: shuffle, sequential"):
        view_indices("random", 10, 7, 3, np.arange(3))


def test_samples_with_ids_are_no_stream() -> None:
    with pytest.raises(InvalidRequest, match="no stream; ask for one of: shuffle, "):
        view_indices("stream", 10, 7, 3, np.arange(3))
