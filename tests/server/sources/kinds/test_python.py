"""Looking at Python objects in a process of its own: what comes back, and what becomes of crashes and hangs."""

import sys
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from processes import children

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
    return {child.pid for child in children(lambda words: any("workers.worker" in word for word in words))}


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

    assert "column 'x' of sample 8 is another one when it is read again, in another order, although" in str(error)
    assert ("line 3: secrets.randbits(…) is numbers of the system" in str(error)) == (text == RESTLESS)
    assert "or say deterministic = false in loader.toml and do without" in str(error)
    assert meant.notes == ("deterministic = false: a retry, a resumed training or another replica may have other data",)


def test_what_a_module_prints_does_not_disturb_the_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset = looked_at(tmp_path, "print('reading …')\nmade = [1, 2, 3]")

    assert dataset.views["train"].samples == 3
    assert capfd.readouterr().out == "reading …\n"


def test_what_a_module_prints_is_seen_although_its_process_is_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    failure(tmp_path, "import os, signal\nprint('reading …')\nos.kill(os.getpid(), signal.SIGKILL)")

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


# ---- scripts and what they leave behind ----


@pytest.mark.parametrize(
    "text",
    [
        "import argparse\nargs = argparse.ArgumentParser().parse_args()\nmade = [1]",
        "import argparse\ndef made():\n    argparse.ArgumentParser().parse_args()\n    return [1]",
    ],
)
def test_a_module_that_reads_the_command_line_reads_its_own(tmp_path: Path, text: str) -> None:
    assert looked_at(tmp_path, text).views["train"].samples == 1


def test_a_pool_that_is_left_early_in_a_constructor_ends(tmp_path: Path) -> None:
    """SIGTERM was ignored by what a worker forked, so its terminate() waited for ever."""
    dataset = looked_at(
        tmp_path,
        """
        import multiprocessing, time
        def slow(x):
            time.sleep(0.01 * (x % 3))
            return x
        class made(list):
            def __init__(self):
                with multiprocessing.Pool(6) as pool:
                    self.append(next(iter(pool.imap(slow, range(40)))))
        """,
        start_timeout_s=30,
    )

    assert dataset.views["train"].samples == 1


def test_a_script_that_trains_when_it_is_imported_is_told_by_its_line(tmp_path: Path) -> None:
    text = """
    class Model:
        def fit(self, x, epochs): raise SystemExit(2)
    model = Model()
    made = [1, 2]
    if len(made) > 1:
        model.fit(made, epochs=3)
    """

    error = failure(tmp_path, text)

    assert "importing its module fails with SystemExit: 2; training code runs at import" in str(error)
    assert f'({NAME}.py, line 7: model.fit(…)): move it behind `if __name__ == "__main__":`' in str(error)


def test_a_script_that_trains_without_end_is_told_by_its_line_when_it_is_given_up(tmp_path: Path) -> None:
    text = """
    import threading
    class Model:
        def fit(self, x, epochs): epochs or threading.Event().wait()
    model = Model()
    made = [1, 2]
    model.fit(made, epochs={epochs})
    """

    error = failure(tmp_path, text.format(epochs=0), start_timeout_s=1.5)
    well = looked_at(tmp_path, text.format(epochs=1))

    words = f"training code runs at import ({NAME}.py, line 7: model.fit(…)): move it behind"
    assert "took longer than 1.5 s and was given up" in str(error)
    assert words in str(error)
    assert any(words in note for note in well.notes)


def test_texts_of_the_declaration_are_those_of_the_program(tmp_path: Path) -> None:
    """`self.split is 'TRAIN'` was true where the code was written and false here."""
    text = """
    import warnings
    warnings.simplefilter("ignore")
    class made:
        def __init__(self, split, more): self.right = split is "TRAIN" and more["of"][0] is "TEST"
        def __len__(self): return 1
        def __getitem__(self, i): return int(self.right)
    """

    arguments = {"split": "".join(["TR", "AIN"]), "more": {"of": ["".join(["TE", "ST"])]}}

    with closing(open_dataset("d", config(tmp_path, text, arguments=arguments))) as found:
        assert drawn(found, 0)["x"].tolist() == [1]


FLOATS = """
    import numpy as np
    class Made:
        def __len__(self):
            return 10
        def __getitem__(self, i):
            return np.ones((2, 3)), np.float32(i)
    made = Made()
    """


def test_float64_of_code_is_served_and_said_with_what_it_costs(tmp_path: Path) -> None:
    dataset = looked_at(tmp_path, FLOATS)

    assert [str(column) for column in dataset.columns] == ["x float64(2, 3)", "y float32()"]
    assert dataset.notes == (
        "column 'x' is float64, as code returns it: 48 bytes a sample where float32 takes 24. If the model takes "
        'float32, add [[datasets.d.transforms]] name = "cast", column = "x", dtype = "float32"',
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float64_that_is_declared_or_cast_is_no_surprise(tmp_path: Path, dtype: str) -> None:
    cast = {"name": "cast", "column": "x", "dtype": dtype}

    assert looked_at(tmp_path, FLOATS, transforms=[cast]).notes == ()


def test_a_masked_array_is_refused_with_what_to_return(tmp_path: Path) -> None:
    text = FLOATS.replace("np.ones((2, 3))", "np.ma.masked_equal(np.arange(6.0), 3)")

    assert "holds a masked array in [0], 1 of its values are masked; return array.filled(0)" in str(
        failure(tmp_path, text)
    )
