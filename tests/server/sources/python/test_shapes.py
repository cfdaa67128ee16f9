"""Ready batches of differing shapes, parts that are dropped, bad samples while an object is looked at."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from feedline_server.batches.assembly import assemble, most_nbytes
from feedline_server.batches.dataset import Dataset
from feedline_wire.errors import BadSample, DataError
from feedline_wire.key import Key
from feedline_wire.tensors import views

Open = Callable[..., Dataset]

PAD = {"name": "pad", "column": "x", "length": 40}


def batch(dataset: Dataset, number: int, rows: int = 1) -> dict[str, Any]:
    memory = np.empty(2 * most_nbytes(dataset, rows) + 4096, np.uint8)
    layout = assemble(dataset, Key("d", b"", "train", "sequential", 0, 0, number, rows), memory)
    return {name: array.copy() for name, array in views(memory[: layout.nbytes], layout).items()}


PADDED = """
    made = [(np.full((4 + k, length), k, "f4"), np.arange(4 + k)) for k, length in enumerate({lengths})]
"""


def test_batches_that_are_padded_to_their_own_longest_row_are_served_as_they_are(opened: Open) -> None:
    dataset = opened(PADDED.format(lengths=[31, 28, 30]), batched=True)

    assert [str(column) for column in dataset.columns] == ["x float32(?)", "y int64()"]
    assert [batch(dataset, k)["x"].shape for k in range(3)] == [(4, 31), (5, 28), (6, 30)]
    assert (batch(dataset, 1)["x"] == 1).all()


def test_they_are_padded_to_one_length_as_declared(opened: Open) -> None:
    dataset = opened(PADDED.format(lengths=[31, 28, 31]), batched=True, transforms=[PAD])

    assert [str(column) for column in dataset.columns] == ["x float32(40)", "y int64()"]
    found = batch(dataset, 1)["x"]
    assert found.shape == (5, 40)
    assert found[:, :28].tolist() == [[1.0] * 28] * 5
    assert not found[:, 28:].any()
    assert batch(dataset, 0, rows=1)["x"].shape == (4, 40)


def test_one_in_the_middle_is_refused_with_the_line_that_pads_it(opened: Open) -> None:
    dataset = opened(PADDED.format(lengths=[31, 28, 31]), batched=True)

    with pytest.raises(BadSample, match=r"has rows of x float32\(28\), .*") as caught:
        batch(dataset, 1)

    assert 'transforms = [{name = "pad", column = "x", length = 28}] in loader.toml' in str(caught.value)


def test_text_and_none_are_dropped_by_path_and_the_message_writes_the_line(opened: Open) -> None:
    text = "made = [({'a': i, 'name': 'text'}, None, i) for i in range(4)]"
    with pytest.raises(DataError, match=r"holds text in \[0\]\['name'\] .*: drop = \[\"0.name\"\] in loader.toml"):
        opened(text, drop=["1"])
    with pytest.raises(DataError, match=r"holds None in \[1\]; .*: drop = \[\"1\"\] in loader.toml"):
        opened(text, drop="0.name")

    dataset = opened(text, drop=["0.name", "1"])

    assert dataset.structure == ({"a": "a"}, "sample_weight")
    assert batch(dataset, 2)["a"].tolist() == [2]


def test_bad_samples_are_left_out_while_the_object_is_looked_at_too(opened: Open) -> None:
    """The loader did not start: the first sample was none."""
    text = "made = [None, (1, 2), (3, 4), None, (5, 6)]"
    dataset = opened(text, on_bad_sample="skip")

    assert not list(dataset.source.check())  # type: ignore[union-attr]  # it is a PythonSource
    assert list(dataset.source.content())
    assert batch(dataset, 0, rows=5)["__ids__"].tolist() == [1, 2, 4]
    with pytest.raises(DataError, match=r"sample 0 \(m:made\[0\]\) holds None"):
        opened(text)


def test_a_single_bad_batch_that_is_left_out_is_an_empty_answer(opened: Open) -> None:
    dataset = opened(
        """
        class made(list):
            def on_epoch_end(self): pass
            def __getitem__(self, k): return [[k] * 3, [1 // (k - 1)] * 3]
        made = made("abc")
        """,
        on_bad_sample="skip",
    )

    assert batch(dataset, 1)["__ids__"].tolist() == []
    assert batch(dataset, 1)["__bad__"].tolist() == [[0, 1]]
    assert batch(dataset, 1)["x"].shape[0] == 0
    assert batch(dataset, 2)["__ids__"].tolist() == [2]
