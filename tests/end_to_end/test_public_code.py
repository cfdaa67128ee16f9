"""Code as the public has it is served unchanged: two epochs by one and by two workers, equal to a loop in this process.

Five Keras Sequences and five generators; five datasets of torch where torch is (tier `frameworks`).
"""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import feedline
from feedline.testing import local_epochs

CODE = Path(__file__).parent / "public_code"

SEQUENCES = ("FileABatch", "InMemory", "Counting", "OwnGenerator", "Patches")
DATASETS = ("OpenedLate", "ShuffledNames", "Frames", "Characters", "Augmented")
RUN = {"flipped": 3, "in_order": 3, "reseeding": 3, "split_by_hash": 1, "windows": 9}
"""Generators, with the batches of one run through their data."""

SEED, EPOCHS, FRAMES = 5, 2, 20


def write_data() -> None:
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(1)
    for number in range(6):
        np.save(f"batch-{number}.npy", rng.random((4 + number, 5)).astype(np.float32))
    np.savez("arrays.npz", x=rng.random((43, 7)).astype(np.float32), y=rng.integers(0, 4, 43))
    np.save("images.npy", rng.integers(0, 200, (40, 12, 12)).astype(np.float32))
    angles = "".join(f"{frame},{rng.random():.6f}\n" for frame in range(FRAMES))
    Path("log.csv").write_text(f"frame,angle\n{angles}")
    with h5py.File("scans.h5", "w") as file:
        file["scans"] = rng.integers(0, 99, (8, 16, 16))
    with h5py.File("entries.h5", "w") as file:
        for number in range(9):
            file[f"entry {number}"] = rng.random((2, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data and the code, in the current folder, from which the code reads."""
    folder = tmp_path_factory.mktemp("public")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        for file in CODE.glob("*.py"):
            shutil.copy(file, folder)
        write_data()
        yield folder
        for name in ("sequences", "generators", "datasets"):
            sys.modules.pop(name, None)


def declared(folder: Path, name: str, objects: dict[str, int | None]) -> Path:
    file = folder / f"{name}.toml"
    module = name.partition("-")[0]
    file.write_text(
        "".join(
            f'[datasets.{one}]\nobject = "{module}:{one}"\n' + (f"steps_per_epoch = {steps}\n" if steps else "")
            for one, steps in objects.items()
        )
    )
    return file


@pytest.fixture(scope="module")
def served(folder: Path, start_shared_loader: Callable[..., Any]) -> Callable[[str, int], str]:
    """The address of a loader of a module, with so many workers; started once."""
    objects = {
        "sequences": dict.fromkeys(SEQUENCES),
        "datasets": dict.fromkeys(DATASETS),
        "generators": {name: EPOCHS * steps for name, steps in RUN.items()},
    }
    started: dict[tuple[str, int], str] = {}

    def address(module: str, workers: int) -> str:
        if (module, workers) not in started:
            toml = declared(folder, f"{module}-{workers}", objects[module])
            loader = start_shared_loader(toml, "--workers", str(workers))
            started[module, workers] = loader.address
        return started[module, workers]

    return address


def epochs(address: str, name: str, **asked: Any) -> list[list[feedline.Batch]]:
    with feedline.connect(address) as loader:
        feed = loader.feed(dataset=name, order="sequential", seed=SEED, **asked)
        return [list(feed.epoch(epoch)) for epoch in range(EPOCHS)]


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_sequence_gives_what_it_gives_in_a_loop(served: Callable[[str, int], str], name: str) -> None:
    make = getattr(import_module("sequences"), name)
    found = {workers: epochs(served("sequences", workers), name) for workers in (1, 2)}

    for epoch, batches in enumerate(local_epochs(make, epochs=EPOCHS, seed=SEED)):
        for workers in (1, 2):
            assert len(found[workers][epoch]) == len(batches)
            for batch, (x, y) in zip(found[workers][epoch], batches, strict=True):
                np.testing.assert_array_equal(batch["x"], x)
                np.testing.assert_array_equal(batch["y"], y)
    if name != "FileABatch":  # which shuffles an index and reads files in order
        assert not np.array_equal(found[1][0][0]["x"], found[1][1][0]["x"])


def rows(batches: Any) -> Counter[bytes]:
    return Counter(x.tobytes() + y.tobytes() for xs, ys in batches for x, y in zip(xs, ys, strict=True))


@pytest.mark.parametrize("name", [name for name in RUN if name not in {"split_by_hash", "windows"}])
def test_a_generator_over_a_list_gives_all_of_it_once_a_run(served: Callable[[str, int], str], name: str) -> None:
    making = getattr(import_module("generators"), name)()
    local = rows(next(making) for _ in range(RUN[name]))

    for workers in (1, 2):
        with feedline.connect(served("generators", workers)) as loader:
            batches = [(batch["x"], batch["y"]) for batch in loader.epoch(0, dataset=name)]

        assert len(batches) == EPOCHS * RUN[name]
        assert rows(batches[: RUN[name]]) == rows(batches[RUN[name] :]) == local


def test_a_split_by_hash_is_the_same_in_every_worker(served: Callable[[str, int], str]) -> None:
    kept = []
    for workers in (1, 2):
        with feedline.connect(served("generators", workers)) as loader:
            kept += [sorted(batch["y"].tolist()) for batch in loader.epoch(0, dataset="split_by_hash")]

    assert len(kept) == 2 * EPOCHS
    assert all(angles == kept[0] for angles in kept)
    assert 0 < len(kept[0]) < FRAMES


def test_a_generator_that_divides_itself_gives_no_window_in_two_workers(served: Callable[[str, int], str]) -> None:
    making = import_module("generators").windows(0, 1)
    local = rows(next(making) for _ in range(RUN["windows"]))

    with feedline.connect(served("generators", 1)) as loader:
        alone = [(batch["x"], batch["y"]) for batch in loader.epoch(0, dataset="windows")]
    with feedline.connect(served("generators", 2)) as loader:
        shared = [(batch["x"], batch["y"]) for batch in loader.epoch(0, dataset="windows")]

    assert rows(alone[: RUN["windows"]]) == rows(alone[RUN["windows"] :]) == local
    assert rows(shared).keys() <= local.keys()
    assert len(shared) == EPOCHS * RUN["windows"]


@pytest.mark.frameworks
@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_of_torch_gives_what_it_gives_in_a_loop(served: Callable[[str, int], str], name: str) -> None:
    make = getattr(import_module("datasets"), name)
    found = {workers: epochs(served("datasets", workers), name, batch_size=4) for workers in (1, 2)}

    for epoch, samples in enumerate(local_epochs(make, epochs=EPOCHS, seed=SEED)):
        parts = [sample if isinstance(sample, tuple) else (sample,) for sample in samples]
        for column, values in zip(("x", "y"), zip(*parts, strict=True), strict=False):
            for workers in (1, 2):
                together = np.concatenate([batch[column] for batch in found[workers][epoch]])
                np.testing.assert_array_equal(together, np.stack([value.numpy() for value in values]))
    if name in {"Frames", "Augmented"}:
        assert not np.array_equal(found[1][0][0]["x"], found[1][1][0]["x"]), "another draw in every epoch"
