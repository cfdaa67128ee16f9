"""Datasets that do more than hand out rows are the same to a trainer, whichever loader serves them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from feedline.testing import serve
from feedline_wire import elementwise
from feedline_wire import loader_pb2 as pb
from feedline_wire.elementwise import Scale
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.key import Key

SAMPLES = 40
BAD = (3, 4, 17)
"""Samples that cannot be read: those of value 3, 4 and 17."""

PYTHON = """
import numpy as np

BAD = (3, 4, 17)


def careful(sample):
    if int(sample["y"]) in BAD:
        raise ValueError(f"sample {sample['y']} is spoilt")
    return sample


class Batches:
    def on_epoch_end(self):  # which makes it one of ready batches, as Keras' are
        pass

    def __len__(self):
        return 6

    def __getitem__(self, number):
        return np.full((2 + number, 3), number, np.float32), np.full(2 + number, number)


def endless():
    number = 0
    while True:
        yield np.full((4, 3), number, np.float32), np.full(4, number)
        number += 1


batches = Batches()
"""

CONFIG = """
[datasets.late]
kind = "columns"
[[datasets.late.transforms]]
name = "scale"
column = "x"
divide_by = 255
late = true

[datasets.skip]
kind = "columns"
on_bad_sample = "skip"
[[datasets.skip.transforms]]
code = "my_data:careful"

[datasets.substitute]
kind = "columns"
on_bad_sample = "substitute"
[[datasets.substitute.transforms]]
code = "my_data:careful"

[datasets.batches]
object = "my_data:batches"

[datasets.stream]
object = "my_data:endless"
steps_per_epoch = 7
"""

COLUMNS = {"x": np.repeat(np.arange(SAMPLES, dtype=np.uint8), 3).reshape(SAMPLES, 3), "y": np.arange(SAMPLES)}

FAKES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "late": (COLUMNS, {"deferred": [("x", Scale(divide_by=255))]}),
    "skip": (COLUMNS, {"bad": BAD}),
    "substitute": (COLUMNS, {"bad": BAD, "on_bad_sample": "substitute"}),
    "batches": (
        {
            "x": [np.full((2 + number, 3), number, np.float32) for number in range(6)],
            "y": [np.full(2 + number, number) for number in range(6)],
        },
        {"kind": "batches"},
    ),
    "stream": (
        {
            "x": [np.full((4, 3), number, np.float32) for number in range(7)],
            "y": [np.full(4, number) for number in range(7)],
        },
        {"kind": "stream"},
    ),
}


@pytest.fixture(scope="module")
def real_address(start_shared_loader: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("kinds")
    for name, array in COLUMNS.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "my_data.py").write_text(PYTHON)
    (folder / "loader.toml").write_text(CONFIG)
    return str(start_shared_loader(folder, "--workers", "2").address)


class Served:
    """One dataset of a loader."""

    def __init__(self, raw: Any, name: str) -> None:
        self.raw = raw
        (self.dataset,) = [one for one in raw.describe().datasets if one.name == name]

    def key(self, **different: Any) -> Key:
        first: dict[str, Any] = {
            "dataset": self.dataset.name, "fingerprint": self.dataset.fingerprint, "view": "train",
            "order": "sequential", "seed": 1, "epoch": 0, "offset": 0, "rows": 8,
        }  # fmt: skip
        return Key(**{**first, **different})

    def fetch(self, *keys: Key) -> list[Any]:
        return list(self.raw.fetch(*keys))


@pytest.fixture(params=["fake", "real"])
def serving(request: pytest.FixtureRequest, connected: Callable[..., Any]) -> Callable[[str], Any]:
    """`with serving("late") as served: …`, of each kind of loader in turn."""

    @contextmanager
    def open_one(name: str) -> Iterator[Served]:
        if request.param == "real":
            with connected(request.getfixturevalue("real_address")) as raw:
                yield Served(raw, name)
        else:
            columns, declared = FAKES[name]
            with serve(columns, name=name, **declared) as fake, connected(fake.address) as raw:
                yield Served(raw, name)

    return open_one


def test_what_is_late_is_described_and_not_done(serving: Callable[[str], Any]) -> None:
    with serving("late") as served:
        (batch,) = served.fetch(served.key(offset=30))

    assert elementwise.from_messages(served.dataset.deferred) == (("x", Scale(divide_by=255.0)),)
    assert [(column.name, column.dtype) for column in served.dataset.columns] == [("x", "uint8"), ("y", "int64")]
    assert batch.arrays["x"].tolist() == [[number] * 3 for number in range(30, 38)]


def test_bad_samples_are_left_out_and_named_by_row_and_id(serving: Callable[[str], Any]) -> None:
    with serving("skip") as served:
        spoilt, sound = served.fetch(served.key(rows=6), served.key(offset=6, rows=6))

    assert spoilt.ids == [0, 1, 2, 5]
    assert spoilt.arrays["y"].tolist() == [0, 1, 2, 5]
    assert spoilt.arrays["x"].shape == (4, 3)
    assert spoilt.arrays["__bad__"].tolist() == [[3, 3], [4, 4]]
    assert sound.ids == [6, 7, 8, 9, 10, 11]
    assert sound.arrays["__bad__"].shape == (0, 2)


def test_bad_samples_are_replaced_by_good_ones_and_named_by_row_and_id(serving: Callable[[str], Any]) -> None:
    with serving("substitute") as served:
        spoilt, again = served.fetch(served.key(rows=6), served.key(rows=6))

    assert spoilt.ids[:3] + spoilt.ids[5:] == [0, 1, 2, 5]
    assert not set(spoilt.ids) & set(BAD)
    assert spoilt.arrays["y"].tolist() == spoilt.ids
    assert spoilt.arrays["__bad__"].tolist() == [[3, 3], [4, 4]]
    assert spoilt.digest == again.digest


def test_a_batch_of_which_all_is_bad_is_an_error(serving: Callable[[str], Any]) -> None:
    with serving("skip") as served, pytest.raises(DataError, match="every sample of the batch"):
        served.fetch(served.key(offset=3, rows=2))


def test_a_single_sample_that_is_bad_is_an_empty_answer_that_names_it(serving: Callable[[str], Any]) -> None:
    with serving("skip") as served:
        empty, sound = served.fetch(served.key(offset=3, rows=1), served.key(offset=5, rows=1))

    assert served.dataset.skips_bad_samples
    assert (empty.ids, empty.arrays["x"].shape, empty.arrays["__bad__"].tolist()) == ([], (0, 3), [[0, 3]])
    assert sound.ids == [5]


def test_ready_batches_come_as_they_were_made_one_behind_the_other(serving: Callable[[str], Any]) -> None:
    with serving("batches") as served:
        one, two = served.fetch(served.key(offset=2, rows=1), served.key(offset=3, rows=2))

    assert served.dataset.batched
    assert [view.samples for view in served.dataset.views] == [6]
    assert [list(column.shape) for column in served.dataset.columns] == [[3], []]
    assert (one.ids, one.arrays["y"].tolist()) == ([2], [2] * 4)
    assert (two.ids, two.arrays["y"].tolist()) == ([3, 4], [3] * 5 + [4] * 6)
    assert two.arrays["x"].shape == (11, 3)


@pytest.mark.parametrize("order", ["shuffle", "blocks:2x2"])
def test_ready_batches_are_shuffled_like_samples(serving: Callable[[str], Any], order: str) -> None:
    with serving("batches") as served:
        batches = served.fetch(*(served.key(order=order, offset=offset, rows=1) for offset in range(6)))

    assert sorted(batch.ids[0] for batch in batches) == list(range(6))


def test_a_stream_gives_whatever_comes_next(serving: Callable[[str], Any]) -> None:
    with serving("stream") as served:
        batches = served.fetch(*(served.key(order="stream", offset=0, rows=1) for _ in range(10)))
        with pytest.raises(InvalidRequest, match="no order 'shuffle'"):
            served.fetch(served.key(order="shuffle", rows=1))

    dataset: pb.Dataset = served.dataset
    assert (dataset.stream, list(dataset.orders), [view.samples for view in dataset.views]) == (True, ["stream"], [7])
    assert all(batch.arrays["x"].shape == (4, 3) for batch in batches)
    numbers: NDArray[Any] = np.array([batch.arrays["y"][0] for batch in batches])
    assert len(set(numbers.tolist())) > 1


def test_drawing_with_replacement_repeats_samples(loader: Any, key: Callable[..., Any]) -> None:
    (drawn,) = loader.fetch(key(order="replacement", rows=900))

    assert set(drawn.ids) <= set(range(900))
    assert 500 < len(set(drawn.ids)) < 640  # of 900 draws 569 on average, with a deviation of 9


@pytest.mark.parametrize("order", ["blocks", "blocks:64x3", "blocks:7x1", "blocks:64:in-order"])
def test_blocks_have_every_sample_once_however_they_are_cut(loader: Any, key: Callable[..., Any], order: str) -> None:
    keys = [key(order=order, offset=start, rows=min(64, 900 - start)) for start in range(0, 900, 64)]

    ids = [sample for batch in loader.fetch(*keys) for sample in batch.ids]
    (whole,) = loader.fetch(key(order=order, rows=900))

    assert sorted(ids) == list(range(900))
    assert ids == whole.ids
    assert ids != list(range(900))


def test_blocks_in_order_are_contiguous_and_the_short_one_is_the_last(loader: Any, key: Callable[..., Any]) -> None:
    keys = [key(order="blocks:64:in-order", offset=start, rows=min(64, 900 - start)) for start in range(0, 900, 64)]

    batches = loader.fetch(*keys)

    assert all(batch.ids == list(range(batch.ids[0], batch.ids[0] + len(batch.ids))) for batch in batches)
    assert sorted(batch.ids[0] for batch in batches) == list(range(0, 900, 64))
    assert batches[-1].ids == [896, 897, 898, 899]


def test_positions_past_the_end_of_an_epoch_of_blocks_run_on(loader: Any, key: Callable[..., Any]) -> None:
    for order in ("blocks:64x3", "replacement"):
        across, tail, head = loader.fetch(
            key(order=order, epoch=4, offset=880, rows=50),
            key(order=order, epoch=4, offset=880, rows=20),
            key(order=order, epoch=5, offset=0, rows=30),
        )

        assert across.ids == tail.ids + head.ids


@pytest.mark.parametrize("order", ["blocks:0", "blocks:8x0", "blocks:x", "stream"])
def test_an_order_that_makes_no_sense_is_refused(loader: Any, key: Callable[..., Any], order: str) -> None:
    with pytest.raises(InvalidRequest, match="order"):
        loader.fetch(key(order=order))
