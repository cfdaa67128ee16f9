"""Python objects as datasets: what is served of them, that a key decides everything, and what is said when it fails.

Workers' code is run here in the test's own process; that others never import the operator's code is tested in
test_python_opening.py.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedline_server.batches.dataset import Dataset, open_dataset_in_worker
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import PythonConfig
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.source import SampleRequest
from feedline_wire.errors import BadSample, DataError

Open = Callable[..., Dataset]


def drawn(dataset: Dataset, *ids: int, epoch: int = 0, seed: int = 0) -> dict[str, Any]:
    asked = SampleRequest(np.array(ids, np.int64), np.full(len(ids), epoch), seed)
    return dataset.source.draw(asked)  # type: ignore[union-attr]  # it is a GeneratedSource


def units(dataset: Dataset, *ids: int, column: str = "x", epoch: int = 0, seed: int = 0) -> list[list[float]]:
    found = drawn(dataset, *ids, epoch=epoch, seed=seed)[column]
    assert isinstance(found, Ragged)
    return [found[unit].tolist() for unit in range(len(found))]


SQUARES = """
    class Squares:
        def __len__(self):
            return 10
        def __getitem__(self, i):
            return np.full((2,), i, np.float32), i * i
    made = Squares()
"""

NOISE = """
    class Noise:
        def __len__(self):
            return 5
        def __getitem__(self, i):
            return i + random.random(), np.random.rand()
    made = Noise
"""

SHUFFLED = """
    class Generator:
        def __init__(self, n=10, batch=4):
            self.n, self.batch = n, batch
            self.on_epoch_end()
        def __len__(self):
            return -(-self.n // self.batch)
        def __getitem__(self, i):
            chosen = self.indexes[i * self.batch:(i + 1) * self.batch]
            return chosen + np.random.rand(len(chosen)), chosen
        def on_epoch_end(self):
            self.indexes = np.arange(self.n)
            np.random.shuffle(self.indexes)
    made = Generator
"""


# ---- samples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", ["Squares()", "Squares", "lambda: Squares()", "[Squares()[i] for i in range(10)]"])
def test_anything_with_len_and_getitem_is_a_dataset_and_so_is_what_makes_one(opened: Open, made: str) -> None:
    dataset = opened(SQUARES + f"\n    made = {made}")

    assert [str(column) for column in dataset.columns] == ["x float32(2)", "y int64()"]
    assert dataset.structure == ("x", "y")
    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 10}
    assert not dataset.is_batched
    found = drawn(dataset, 3, 0, 3)
    assert found["x"].tolist() == [[3, 3], [0, 0], [3, 3]]
    assert found["y"].tolist() == [9, 0, 9]


def test_arguments_are_given_to_what_makes_the_dataset(opened: Open) -> None:
    dataset = opened(
        """
        def made(first, *, names):
            return [(first + place, len(name)) for place, name in enumerate(names)]
        """,
        arguments={"first": 7, "names": ["a", "bcd"]},
    )

    assert drawn(dataset, 0, 1)["x"].tolist() == [7, 8]
    assert drawn(dataset, 0, 1)["y"].tolist() == [1, 3]


def test_a_sample_is_a_function_of_seed_epoch_and_id_whatever_was_read_before(opened: Open) -> None:
    one, another = opened(NOISE), opened(NOISE)
    in_order = drawn(one, 0, 1, 2, 3, 4)["x"].tolist()

    drawn(another, 4, 4, 2)

    assert drawn(another, 3)["x"].tolist() == in_order[3:4]
    assert drawn(another, 2, 0)["x"].tolist() == [in_order[2], in_order[0]]
    assert len({round(value % 1, 6) for value in in_order}) == 5, "each sample draws its own"
    assert drawn(one, 3, epoch=1)["x"].tolist() != in_order[3:4]
    assert drawn(one, 3, seed=1)["x"].tolist() != in_order[3:4]
    assert drawn(one, 3, epoch=1)["x"].tolist() != drawn(one, 3, seed=1)["x"].tolist()


@pytest.mark.parametrize(
    "text",
    [
        "rng = np.random.default_rng()\nclass D(list):\n    def __getitem__(self, i): return rng.random()",
        """class D(list):
    def __init__(self, *more): super().__init__(*more); self.rng = np.random.default_rng()
    def __getitem__(self, i): return self.rng.random()""",
        """class Inner:
    def __init__(self): self.rng = random.Random()
class D(list):
    def __init__(self, *more): super().__init__(*more); self.dataset = Inner()
    def __getitem__(self, i): return self.dataset.rng.random()""",
    ],
)
def test_generators_of_its_own_are_seeded_too(opened: Open, text: str) -> None:
    one, another = opened(text + "\nmade = D([0] * 9)"), opened(text + "\nmade = D([0] * 9)")

    first = drawn(one, 0, 1, 2)["x"].tolist()

    assert drawn(another, 2)["x"].tolist() == first[2:]
    assert len(set(first)) == 3


def test_objects_are_built_with_the_same_random_numbers_for_every_view_and_in_every_worker(opened: Open) -> None:
    """A split drawn in each of two functions must be the same split, or what is trained on is measured on too."""
    text = """
    def split():
        ids = list(range(20))
        random.shuffle(ids)
        return ids
    def training():
        return split()[:15]
    def validation():
        return split()[15:]
    """

    dataset = opened(text, None, views={"train": "m:training", "validation": "m:validation"})
    again = opened(text, None, views={"train": "m:training", "validation": "m:validation"})

    assert {name: view.selection for name, view in dataset.views.items()} == {
        "train": range(15),
        "validation": range(15, 20),
    }
    found = drawn(dataset, *range(20))["x"].tolist()
    assert sorted(found) == list(range(20))
    assert found != list(range(20))
    assert drawn(again, *range(20))["x"].tolist() == found


def test_views_can_be_parts_of_one_object(opened: Open) -> None:
    dataset = opened(SQUARES, views={"train": ":8", "validation": "8:"})

    assert {name: view.selection for name, view in dataset.views.items()} == {
        "train": range(8),
        "validation": range(8, 10),
    }


def test_the_object_is_the_view_train_beside_others(opened: Open) -> None:
    dataset = opened(SQUARES + "\n    few = [made[i] for i in (7, 8)]", views={"validation": "m:few"})

    assert {name: view.selection for name, view in dataset.views.items()} == {
        "train": range(10),
        "validation": range(10, 12),
    }
    assert drawn(dataset, 11)["y"].tolist() == [64]


def test_of_dicts_the_declared_parts_are_served_and_text_beside_them_is_left_out(opened: Open) -> None:
    text = "made = [{'text': 'a b', 'ids': [i, 2], 'label': i} for i in range(4)]"

    declared = opened(text, inputs="ids", targets="label")
    dataset = opened("made = [{'ids': [i, 2], 'mask': [1, 1]} for i in range(4)]")

    assert declared.structure == ("ids", "label")
    assert drawn(declared, 3)["ids"].tolist() == [[3, 2]]
    assert dataset.structure == ({"ids": "ids", "mask": "mask"},)
    assert "samples are dicts: all of ids, mask are inputs" in dataset.notes[0]


# ---- batches --------------------------------------------------------------------------------------------------------


def test_what_is_told_of_an_epochs_end_is_served_in_its_own_batches(opened: Open) -> None:
    dataset = opened(SHUFFLED)

    assert dataset.is_batched
    assert [str(column) for column in dataset.columns] == ["x float64()", "y int64()"]
    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 3}
    epoch = units(dataset, 0, 1, 2, column="y")
    assert [len(batch) for batch in epoch] == [4, 4, 2]
    assert sorted(itertools.chain(*epoch)) == list(range(10))
    assert "which are served as they are made" in dataset.notes[0]


def test_a_batch_is_a_function_of_seed_epoch_and_its_number_whatever_was_asked_before(opened: Open) -> None:
    one, another = opened(SHUFFLED), opened(SHUFFLED)
    epochs = [units(one, 0, 1, 2, epoch=epoch) for epoch in range(8)]

    assert units(another, 2, epoch=6) == epochs[6][2:]
    assert units(another, 1, 0, epoch=3) == [epochs[3][1], epochs[3][0]]
    assert units(one, 2, epoch=6) == epochs[6][2:], "asked again, after other epochs"
    assert len({tuple(map(tuple, epoch)) for epoch in epochs}) == 8
    assert units(one, 0, epoch=1) != units(one, 0, seed=1)


def test_an_index_that_is_shuffled_in_place_begins_every_epoch_from_the_beginning(opened: Open) -> None:
    text = SHUFFLED.replace("self.on_epoch_end()", "self.indexes = np.arange(n)").replace(
        "self.indexes = np.arange(self.n)\n", "pass\n"
    )
    one, another = opened(text), opened(text)
    units(one, 0, epoch=0)
    units(one, 0, epoch=1)

    assert units(one, 0, 1, 2, epoch=5) == units(another, 0, 1, 2, epoch=5)


def test_the_epoch_is_told_to_who_wants_to_know_it_as_torch_samplers_are(opened: Open) -> None:
    dataset = opened(
        """
        class made:
            def __len__(self): return 1
            def __getitem__(self, i): return [self.epoch, self.told]
            def set_epoch(self, epoch): self.epoch, self.told = epoch, 0
            def on_epoch_end(self): self.told += 1
            def on_epoch_begin(self): self.told += 10
        """
    )

    assert units(dataset, 0, epoch=3) == [[3, 10]]
    assert units(dataset, 0, epoch=0) == [[0, 10]]


def test_batches_that_fill_the_same_array_again_and_again_are_not_mixed_up(opened: Open) -> None:
    dataset = opened(
        """
        class made:
            def __init__(self): self.buffer = np.zeros(2)
            def __len__(self): return 3
            def on_epoch_end(self): pass
            def __getitem__(self, i):
                self.buffer[:] = i
                return self.buffer
        """
    )

    assert units(dataset, 0, 1, 2) == [[0, 0], [1, 1], [2, 2]]


def test_whether_items_are_batches_can_be_declared(opened: Open) -> None:
    batched = opened("made = [[1.0, 2.0], [3.0]]", batched=True)
    single = opened(SQUARES + "\n    Squares.on_epoch_end = lambda self: None", batched=False)

    assert units(batched, 1, 0) == [[3], [1, 2]]
    assert not single.is_batched


def test_classes_of_keras_are_told_by_their_names_and_others_of_these_names_are_not(opened: Open) -> None:
    text = """
    import collections.abc, sys
    class Base:
        pass
    Base.__name__, Base.__module__ = {name!r}, {module!r}
    class D(Base):
        def __len__(self): return 2
        def __getitem__(self, i): return [i]
    made = D()
    """

    assert opened(
        text.format(name="PyDataset", module="keras.src.trainers.data_adapters.py_dataset_adapter")
    ).is_batched
    assert opened(text.format(name="Sequence", module="tensorflow.python.keras.utils.data_utils")).is_batched
    assert not opened(text.format(name="Sequence", module="collections.abc")).is_batched


def test_an_object_that_cannot_be_copied_is_made_anew_for_each_epoch(opened: Open) -> None:
    text = SHUFFLED + "\n    Generator.__reduce_ex__ = lambda self, protocol: (stubborn, ())\n    def stubborn(): 1 / 0"

    assert units(opened(text), 0, epoch=2) == units(opened(SHUFFLED), 0, epoch=2)
    with pytest.raises(
        DataError, match=r"m:made: cannot be copied for each epoch \(ZeroDivisionError: .*name a function"
    ):
        opened(text + "\n    made = Generator()")


# ---- streams --------------------------------------------------------------------------------------------------------

COUNTING = """
    def made(first=0):
        while True:
            first += 1
            yield np.full((2, 3), first), [first, -first]
"""


def test_a_generator_is_a_stream_that_is_asked_for_its_next_batch(opened: Open) -> None:
    dataset = opened(COUNTING, steps_per_epoch=5, arguments={"first": 100})

    assert dataset.is_stream
    assert dataset.orders == ("stream",)
    assert {name: view.samples for name, view in dataset.views.items()} == {"train": 5}
    assert units(dataset, 0, column="y") == [[101, -101]], "the first, which was looked at, is not lost"
    assert units(dataset, 0, 0, column="y") == [[102, -102], [103, -103]]
    assert "no exactly-once, no resuming with state_dict" in dataset.notes[0]


def test_each_view_has_a_generator_of_its_own(opened: Open) -> None:
    text = COUNTING + "\n    def other():\n        yield from made(500)"

    dataset = opened(text, steps_per_epoch=5, views={"validation": "m:other"})

    first = dataset.views["validation"].ids(np.array([0]))[0]
    assert units(dataset, int(first), column="y") == [[501, -501]]
    assert units(dataset, 0, column="y") == [[1, -1]]


def test_workers_draw_different_random_numbers_and_have_different_seeds(opened: Open) -> None:
    text = """
    def made(seed):
        while True:
            yield [seed], [random.random()], [np.random.rand()]
    """
    workers = [opened(text, steps_per_epoch=5) for _ in range(3)]

    found = [
        tuple(units(worker, 0, column=column)[0][0] for column in ("x", "y", "sample_weight")) for worker in workers
    ]

    assert all(len(set(numbers)) == 3 for numbers in zip(*found, strict=True))


def test_a_generator_that_ends_begins_again_and_says_so_once(opened: Open, capfd: pytest.CaptureFixture[str]) -> None:
    dataset = opened("def made():\n        yield [1]\n        yield [2]", steps_per_epoch=5)

    assert units(dataset, 0, 0, 0, 0, 0) == [[1], [2], [1], [2], [1]]
    assert capfd.readouterr().err.splitlines() == [
        "feedline: m:made ended after 2 batches and begins again; let it loop (while True:) if beginning takes long"
    ]


@pytest.mark.parametrize(
    "text",
    ["made = lambda: iter([[1], [2]])", "class made:\n        def __iter__(self): return iter([[1], [2]])"],
)
def test_iterators_that_can_be_made_anew_are_streams_too(opened: Open, text: str) -> None:
    assert units(opened(text, steps_per_epoch=5), 0, 0, 0) == [[1], [2], [1]]


def test_a_generator_that_raised_begins_again_with_the_next_batch(opened: Open) -> None:
    text = """
    calls = []
    def made():
        calls.append(1)
        yield [len(calls)]
        1 / 0
    """
    dataset = opened(text, steps_per_epoch=5)
    units(dataset, 0)

    with pytest.raises(DataError, match=r"m:made: its next batch raised ZeroDivisionError"):
        units(dataset, 0)

    assert units(dataset, 0) == [[2]]


# ---- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "declared", "words"),
    [
        ("made = 3", {}, "m:made: is an int; wanted an object with __len__ and __getitem__"),
        ("made = lambda: None", {}, "m:made: returns a NoneType; wanted"),
        ("made = {'x': 1}", {}, "m:made: is a dict; wanted"),
        ("made = []", {}, "m:made: is a list of length 0; there is nothing to serve"),
        ("made = [1]", {"arguments": {"a": 1}}, "m:made: has arguments, but is a list, which is not called"),
        ("def made(folder): pass", {}, "m:made: cannot be called with no arguments (missing a required argument"),
        ("def made(): pass", {"arguments": {"n": 1}}, "m:made: cannot be called with n (got an unexpected keyword"),
        ("def made():\n        yield 1", {}, "m:made: is a generator function, which has no length; say how many"),
        ("made = (i for i in range(3))", {}, "m:made: is a generator that has begun already, which cannot begin again"),
        ("def made():\n        if 0: yield 1", {"steps_per_epoch": 3}, "m:made: ended before it yielded anything"),
        (
            "def made():\n        yield 1.0",
            {"steps_per_epoch": 3},
            "the first batch of m:made holds the single number 1.0 in x; return arrays with a row for each sample",
        ),
        ("made = [1]", {"steps_per_epoch": 3}, "m:made: has steps_per_epoch, which is for generators"),
        (
            "class DataLoader:\n        def __iter__(self): return self\n    made = DataLoader()",
            {},
            "m:made: is a m.DataLoader, which makes batches by itself; serve the dataset that it reads from",
        ),
        ("made = ['a']", {}, "sample 0 (m:made[0]) holds text in itself ('a'); text is not served"),
        ("made = [1]\n    other = [[1], [2, 3]]", {"views": {"v": "m:oter"}}, "has no 'oter'; it has made, np, other"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_what_to_change(
    opened: Open, text: str, declared: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError) as caught:
        opened(f"    {text}", **declared)

    assert words in str(caught.value)


def test_views_of_different_kinds_are_refused_naming_both(opened: Open) -> None:
    with pytest.raises(DataError) as caught:
        opened(SHUFFLED + "\n    rows = [1, 2]", views={"validation": "m:rows"})

    assert str(caught.value) == (
        "the view 'train' (m:made) is a m.Generator of 3 batches, the view 'validation' (m:rows) is a list of 2 "
        "samples: views of one dataset are of one kind; declare two datasets"
    )


def test_samples_of_different_shapes_are_refused_naming_both(opened: Open) -> None:
    dataset = opened("made = [np.zeros((2, 3)), np.zeros((5, 3)), np.zeros((2, 3), int)]")

    with pytest.raises(BadSample) as shape:
        drawn(dataset, 0, 1)
    with pytest.raises(BadSample) as dtype:
        drawn(dataset, 2)

    assert str(shape.value) == (
        "sample 1 (m:made[1]) holds x float64(5, 3), sample 0 (m:made[0]) holds x float64(2, 3); "
        "give all samples one shape: pad or cut them where they are made"
    )
    assert shape.value.samples == (1,)
    assert "holds x int64(2, 3), sample 0 (m:made[0]) holds x float64(2, 3); return one dtype" in str(dtype.value)


def test_batches_whose_rows_differ_are_refused_naming_both(opened: Open) -> None:
    text = "made = [(np.zeros((2, 3)), [1, 2]), (np.zeros((2, 5)), [1, 2]), (np.zeros((2, 3)), [1])]"
    dataset = opened(text, batched=True)

    with pytest.raises(
        BadSample, match=r"batch 1 \(m:made\[1\]\) has rows of x float64\(5\), batch 0 \(m:made\[0\]\) has"
    ):
        drawn(dataset, 1)
    with pytest.raises(BadSample, match=r"batch 2 .* has columns of different numbers of rows \(\{'x': 2, 'y': 1\}\)"):
        drawn(dataset, 2)


def test_a_sample_that_raises_is_named_with_the_traceback_of_the_operators_code(opened: Open) -> None:
    text = """
    class Squares(list):
        def __getitem__(self, i):
            return self.read(i)
        def read(self, i):
            if i == 7:
                raise ValueError("not a number")
            return i
    made = Squares(range(10))
    """

    with pytest.raises(BadSample) as caught:
        drawn(opened(text), 3, 7)

    assert caught.value.samples == (7,)
    assert caught.value.args[0] == "sample 7 (m:made[7]) cannot be read: it raised ValueError: not a number"
    lines = caught.value.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "m.py" in lines[1]
    assert lines[1].endswith("in __getitem__")
    assert lines[-1] == "ValueError: not a number"


def test_code_that_wants_to_end_the_process_is_an_error_of_its_sample(opened: Open) -> None:
    text = """
    class D(list):
        def __getitem__(self, i): return i if i < 2 else exit(3)
    made = D(range(4))
    """

    with pytest.raises(BadSample, match=r"sample 3 \(m:made\[3\]\) cannot be read: it raised SystemExit: 3"):
        drawn(opened(text), 3)


@pytest.mark.parametrize(
    ("text", "words", "last"),
    [
        ("1 / 0", "importing its module fails with ZeroDivisionError: division by zero", "ZeroDivisionError"),
        ("def made(:", "importing its module fails with SyntaxError", "SyntaxError"),
        ("import not_installed_anywhere", "ModuleNotFoundError: No module named 'not_installed_anywhere'", "Module"),
        ("def made(): raise KeyError('folder')", "m:made: calling it raised KeyError: 'folder'", "KeyError"),
    ],
)
def test_a_module_that_fails_shows_its_own_traceback(
    code: Callable[..., Path], text: str, words: str, last: str
) -> None:
    folder = code(m=text)

    with pytest.raises(DataError) as caught:
        open_dataset_in_worker("d", PythonConfig.declare(path=folder, object="m:made"))

    assert words in caught.value.args[0]
    assert "m.py" in caught.value.traceback
    assert caught.value.traceback.splitlines()[-1].startswith(last)
    assert "feedline_server" not in caught.value.traceback
    assert "importlib" not in caught.value.traceback


def test_what_is_in_a_module_is_said_when_a_name_is_not(opened: Open) -> None:
    with pytest.raises(DataError, match=r"m:maid: .*m\.py has no 'maid'; it has Squares, made, np, random"):
        opened(SQUARES, "m:maid")


def test_relative_imports_and_neighbours_are_found(code: Callable[..., Path]) -> None:
    folder = code(
        package____init__="",
        package__data="from . import numbers_\nfrom .numbers_ import FIRST\nmade = [FIRST, numbers_.FIRST + 1]",
        package__numbers_="import beside\nFIRST = beside.FIRST",
        beside="FIRST = 40",
    )

    dataset = open_dataset_in_worker("d", PythonConfig.declare(path=folder, object="package.data:made"))

    assert drawn(dataset, 0, 1)["x"].tolist() == [40, 41]


# ---- identity -------------------------------------------------------------------------------------------------------


def test_the_identity_is_the_code_its_neighbours_its_arguments_and_what_it_gives(code: Callable[..., Path]) -> None:
    made = "import beside\ndef made(n=4, folder=''): return [(i, beside.VALUE) for i in range(n)]"

    def identity(text: str = made, beside: str = "VALUE = 1", **declared: Any) -> bytes:
        config = PythonConfig.declare(path=code(m=text, beside=beside), object="m:made", **declared)
        return fingerprint(open_dataset_in_worker("d", config), config)

    first = identity()
    others = [
        identity(made + "\n# changed"),
        identity(beside="VALUE = 1  # changed"),
        identity(beside="VALUE = 2"),
        identity(arguments={"n": 5}),
        identity(arguments={"n": 4}),
        identity(views={"train": "0:3"}),
    ]

    assert identity() == first
    assert len({first, *others}) == 7
    assert identity(arguments={"folder": "/data/a"}) == identity(arguments={"folder": "/other/host"})


def test_objects_of_one_module_are_told_apart_although_they_begin_alike(code: Callable[..., Path]) -> None:
    folder = code(m="one = [1, 2, 3]\nother = [1, 2, 3]")

    def identity(name: str) -> bytes:
        config = PythonConfig.declare(path=folder, object=f"m:{name}")
        return fingerprint(open_dataset_in_worker("d", config), config)

    assert identity("one") == identity("one")
    assert identity("one") != identity("other")


def test_the_identity_is_that_of_the_data_where_the_text_is_the_same(code: Callable[..., Path]) -> None:
    """Two hosts with other files under the same code must not agree."""
    text = "import numpy as np\nmade = np.load('data.npy')"

    def identity(values: Any) -> bytes:
        np.save(code(m=text) / "data.npy", values)
        config = PythonConfig.declare(path=code(m=text), object="m:made")
        return fingerprint(open_dataset_in_worker("d", config), config)

    assert identity([1, 2, 3]) == identity([1, 2, 3])
    assert len({identity([1, 2, 3]), identity([1, 2, 4]), identity([1, 2, 3, 4])}) == 3


def test_samples_of_an_object_with_a_batch_size_are_noted_with_the_line_that_makes_them_batches(opened: Open) -> None:
    """A Sequence without on_epoch_end was served as samples, without a word."""
    text = """
        class made:
            batch_size = 2
            def __len__(self): return 3
            def __getitem__(self, i): return np.full((2, 4), i)
    """

    (note,) = opened(text).notes
    assert note.startswith("view 'train': m:made is ")
    assert "if each item is a batch already, say batched = true in loader.toml" in note
    assert opened(text, batched=False).notes == ()
    assert "batches" in opened(text, batched=True).notes[0]
