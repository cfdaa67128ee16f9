"""A Keras Sequence, unchanged: `feedline serve code/my_classes.py:training_generator --view validation=…`."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from serving import served

import feedline

SAMPLES, BATCH, CLASSES, DIM = 50, 8, 6, (8, 8, 8)

CODE = Path(__file__).parent / "code" / "my_classes.py"


def make(folder: Path) -> dict[str, list[str]]:
    """Volumes named by ids, and the lists of the tutorial."""
    rng = np.random.default_rng(0)
    ids = [f"id-{k}" for k in range(SAMPLES)]
    partition = {"train": ids[:37], "validation": ids[37:]}
    folder.mkdir()
    for name in ids:
        np.save(folder / f"{name}.npy", rng.standard_normal((*DIM, 1)))
    (folder / "partition.json").write_text(json.dumps(partition))
    (folder / "labels.json").write_text(json.dumps({name: k % CLASSES for k, name in enumerate(ids)}))
    return partition


def read(folder: Path, names: list[str]) -> dict[bytes, tuple[str, int]]:
    """The id and class of each volume, found by its content."""
    labels = json.loads((folder / "labels.json").read_text())
    return {np.load(folder / f"{name}.npy").tobytes(): (name, labels[name]) for name in names}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        # TensorFlow, which the generator imports, says what the CPU can do, on some CPUs at every level of its log.
        os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
        os.chdir(temporary)  # the generator reads `data/` of the folder in which the loader is started
        folder = Path(temporary) / "data"
        partition = make(folder)
        plain = {view: read(folder, names) for view, names in partition.items()}
        said = ["--view", "validation=validation_generator", "--log-level", "error"]  # not how it differs from samples
        with served(f"{CODE}:training_generator", *said) as address, feedline.connect(address) as loader:
            # Whole batches, as many as the generator says.
            assert dict(loader.dataset().views) == {view: len(names) // BATCH for view, names in partition.items()}
            orders = []
            for epoch in range(3):
                seen = [name for x, y in loader.epoch(epoch, seed=7) for name in check(x, y, plain["train"])]
                assert len(seen) == len(set(seen)) == len(partition["train"]) // BATCH * BATCH
                orders.append(seen)
            assert len(set(map(tuple, orders))) == 3, "a new order every epoch"
            again = [name for x, y in loader.epoch(1, seed=7) for name in check(x, y, plain["train"])]
            assert again == orders[1], "the same whenever it is asked, whichever worker answers"
            held_out = [
                name
                for x, y in loader.epoch(view="validation", order="sequential")
                for name in check(x, y, plain["validation"])
            ]
            assert held_out == partition["validation"][: len(held_out)]
    print(f"{len(orders[0])} volumes an epoch in batches of {BATCH}, in three orders, each as in its file")


def check(x: np.ndarray, y: np.ndarray, plain: dict[bytes, tuple[str, int]]) -> list[str]:
    """The ids in a batch; every volume and label is compared with the files."""
    assert x.shape == (BATCH, *DIM, 1)
    assert y.shape == (BATCH, CLASSES)
    names = []
    for volume, label in zip(x, y, strict=True):
        name, number = plain[volume.tobytes()]
        assert label.tolist() == [float(number == k) for k in range(CLASSES)]
        names.append(name)
    return names


if __name__ == "__main__":
    main()
