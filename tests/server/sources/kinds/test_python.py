"""Looking at Python objects in a process of its own: what comes back, and what becomes of crashes and hangs."""

import sys
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import psutil
import pytest

from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import PythonConfig
from feedline_server.sources.source import SampleRequest
from feedline_wire.errors import BadSample, DataError

NAME = "looked_at_in_a_process"
"""Of the module; nothing else in the test's own process may be called so."""


def config(folder: Path, text: str, **declared: Any) -> PythonConfig:
    (folder / f"{NAME}.py").write_text(dedent(text))
    return PythonConfig.declare(path=folder, object=f"{NAME}:made", **declared)


def looked_at(folder: Path, text: str, **declared: Any) -> Dataset:
    with closing(open_dataset("d", config(folder, text, **declared))) as dataset:
        return dataset


def looking() -> set[int]:
    """Processes that look at objects, by id; loaders that other tests share are none."""
    return {
        child.pid for child in psutil.Process().children() if any("workers.worker" in word for word in child.cmdline())
    }


def failure(folder: Path, text: str, **declared: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        looked_at(folder, text, **declared)
    assert not looking(), "the process has ended"
    return caught.value


def test_an_object_is_described_without_being_imported_here(tmp_path: Path) -> None:
    """TensorFlow beside gRPC, and whatever a module does when it is imported, would be in the loader's own process."""
    declared = config(
        tmp_path,
        """
        import random, sys
        import numpy as np
        class Generator:
            def __init__(self):
                self.indexes = np.arange(10)
            def __len__(self):
                return 3
            def __getitem__(self, i):
                chosen = self.indexes[4 * i:4 * i + 4]
                return {"image": chosen[:, None] + np.zeros((1, 2)), "age": chosen}, chosen + random.random()
            def on_epoch_end(self):
                random.shuffle(self.indexes)
        made = Generator
        assert "grpc" not in sys.modules
        """,
    )

    with closing(open_dataset("d", declared)) as dataset:
        assert len(looking()) == 1

    assert NAME not in sys.modules
    assert [str(column) for column in dataset.columns] == ["image float64(2)", "age int64()", "y float64()"]
    assert dataset.structure == ({"image": "image", "age": "age"}, "y")
    assert dataset.is_batched
    assert repr(dataset.views["train"]) == "<View train 3 samples>"
    assert "is a looked_at_in_a_process.Generator of 3 batches" in dataset.notes[0]
    assert len(fingerprint(dataset, declared)) == 16


def test_every_process_finds_the_same_although_sets_of_text_are_in_another_order_in_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`list(set(names))` numbers the classes of many a loader; with other numbers in each worker nothing is learnt."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    declared = config(tmp_path, "made = [(ord(name), 1) for name in set('abcdefghijklmnop')]")

    found = set()
    for _ in range(2):
        with closing(open_dataset("d", declared)) as dataset:
            found.add(fingerprint(dataset, declared))

    assert len(found) == 1


def test_a_module_that_fails_shows_its_own_traceback(tmp_path: Path) -> None:
    error = failure(tmp_path, "made = [1]\nprint(made[3])")

    assert error.args[0] == f"{NAME}:made: importing its module fails with IndexError: list index out of range"
    assert error.traceback.splitlines()[1].endswith(f'{NAME}.py", line 2, in <module>')


@pytest.mark.parametrize(
    ("text", "how", "where"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "by SIGSEGV", "line 2 in <module>"),
        ("import os\nos._exit(3)", "with exit code 3", ""),
    ],
)
def test_a_crash_is_an_error_that_says_where(tmp_path: Path, text: str, how: str, where: str) -> None:
    error = failure(tmp_path, text)

    assert error.args[0] == (
        f"{NAME}:made: the process that imports and builds it ended {how}; run `python -c 'import {NAME}'` in "
        f"{tmp_path} to see it alone"
    )
    assert where in error.traceback


def test_a_hang_is_ended_and_says_where(tmp_path: Path) -> None:
    error = failure(
        tmp_path,
        """
        import threading
        def made():
            threading.Event().wait()
        """,
        start_timeout_s=1.5,
    )

    assert error.args[0] == (
        f"{NAME}:made: importing and building it took longer than 1.5 s and was given up; make it quicker, "
        "or raise start_timeout_s in loader.toml"
    )
    assert f'{NAME}.py", line 4 in made' in error.traceback


RESTLESS = (
    "import secrets\nclass D(list):\n    def __getitem__(self, i): return secrets.randbits(60)\nmade = D([0] * 9)"
)

FORGETFUL = """
class D(list):
    calls = 0
    def __getitem__(self, i):
        self.calls += 1
        return self.calls
made = D([0] * 9)
"""


@pytest.mark.parametrize("text", [RESTLESS, FORGETFUL])
def test_what_is_not_the_same_twice_is_refused_unless_that_is_meant(tmp_path: Path, text: str) -> None:
    error = failure(tmp_path, text)
    meant = looked_at(tmp_path, text, deterministic=False)

    assert "sample 8 is another one when it is read again, although random, numpy.random and" in str(error)
    assert "or say deterministic = false in loader.toml and do without" in str(error)
    assert meant.notes == ("deterministic = false: a retry, a resumed training or another replica may have other data",)


def test_what_a_module_prints_does_not_disturb_the_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset = looked_at(tmp_path, "print('reading …')\nmade = [1, 2, 3]")

    assert dataset.views["train"].samples == 3
    assert capfd.readouterr().out == "reading …\n"


DOUBLED = """
class D(list):
    def __getitem__(self, i):
        return 1 / (i - 7)
def double(x):
    return x * 2
made = D([0] * 9)
"""


def test_samples_are_read_by_the_process_that_described_them_until_the_dataset_is_closed(tmp_path: Path) -> None:
    """A function of a transform is tried on a few samples; the loader itself must not import them for that."""
    declared = config(
        tmp_path, DOUBLED, transforms=[{"code": f"{NAME}_too:double", "column": "x"}], inputs="x", modules=tmp_path
    )
    (tmp_path / f"{NAME}_too.py").write_text("def double(x):\n    return float(x) * 2")

    with closing(open_dataset("d", declared)) as dataset:
        started = looking()
        first = drawn(dataset, 0, 8)
        with pytest.raises(BadSample) as caught:
            drawn(dataset, 7)
        again = drawn(dataset, 8)
        assert looking() == started

    assert [str(column) for column in dataset.columns] == ["x float64()"]
    assert first["x"].tolist() == [np.float32(-1 / 7), 1]
    assert again["x"].tolist() == [1]
    assert "sample 7" in str(caught.value)
    assert f'{NAME}.py", line 4, in __getitem__' in str(caught.value)
    assert NAME not in sys.modules
    assert len(started) == 1
    assert not looking()


def test_a_dataset_that_was_closed_reads_again(tmp_path: Path) -> None:
    """As `inspect` does: it describes all datasets, then reads them one after the other."""
    with closing(open_dataset("d", config(tmp_path, "made = [1, 2, 3]"))) as dataset:
        dataset.close()
        assert drawn(dataset, 2)["x"].tolist() == [3]

    assert not looking()


def test_a_process_that_is_released_is_the_callers(tmp_path: Path) -> None:
    with closing(open_dataset("d", config(tmp_path, "made = [1, 2, 3]"))) as dataset:
        child = dataset.release()
        assert dataset.release() is None

    assert child is not None
    assert looking() == {child.pid}
    child.close()
    assert not looking()


def test_a_dataset_that_cannot_be_opened_leaves_no_process(tmp_path: Path) -> None:
    error = failure(tmp_path, DOUBLED, transforms=[{"name": "pad", "column": "x", "length": 2}], inputs="x")

    assert "cannot be padded" in str(error)


def drawn(dataset: Dataset, *ids: int) -> dict[str, Any]:
    return dataset.source.draw(SampleRequest(np.array(ids, np.int64), np.zeros(len(ids), np.int64), 0))  # type: ignore[union-attr]
