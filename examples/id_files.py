"""Volumes in a file each, named by ids: what the well-known Keras data generator tutorial reads, moved to a loader.

A partition says which ids are to train and which to validate, labels say the class of each. Here a scan is an archive
with a volume and the age of the patient, in a folder for each hospital.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from serving import served

import feedline

SCANS, CLASSES, BATCH = 150, 6, 64

CONFIG = """
[datasets.scans]
kind = "id_files"
path = "scans"
files = "{id}.npz"
inputs = ["volume", "age"]
targets = "y"
one_hot = true
classes = 6
"""


def make(folder: Path) -> tuple[list[str], dict[str, int]]:
    """The data, as somebody else might have left it; its ids in the order of the partition, and its labels."""
    rng = np.random.default_rng(0)
    ids = [f"hospital-{number % 3}/scan-{number:03}" for number in range(SCANS)]
    for name in ids:
        (folder / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        volume = rng.standard_normal((32, 32, 32, 1), np.float32)
        np.savez(folder / "scans" / f"{name}.npz", volume=volume, age=np.float32(rng.integers(20, 90)))
    labels = {name: int(rng.integers(CLASSES)) for name in ids}
    (folder / "scans" / "labels.json").write_text(json.dumps(labels))
    (folder / "scans" / "partition.json").write_text(json.dumps({"train": ids[:130], "validation": ids[130:]}))
    (folder / "loader.toml").write_text(CONFIG)
    return ids, labels


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ids, labels = make(folder)
        with served(folder / "loader.toml") as address, feedline.connect(address) as loader:
            feed = loader.feed("train", batch_size=BATCH, seed=7, remainder="drop")
            orders = []
            for epoch in range(2):
                batches = list(feed.epoch(epoch))
                assert len(batches) == 130 // BATCH
                for batch in batches:
                    inputs, y = batch
                    for row, sample in enumerate(batch.ids):
                        with np.load(folder / "scans" / f"{ids[sample]}.npz") as scan:
                            np.testing.assert_array_equal(inputs["volume"][row], scan["volume"])
                            assert inputs["age"][row] == scan["age"]
                        assert y[row].tolist() == [float(labels[ids[sample]] == number) for number in range(CLASSES)]
                orders.append(np.concatenate([batch.ids for batch in batches]).tolist())
                assert len(set(orders[-1])) == len(orders[-1])
            assert orders[0] != orders[1]

            held_out = [batch.ids for batch in loader.epoch(view="validation", order="sequential", batch_size=7)]
            assert np.concatenate(held_out).tolist() == list(range(130, SCANS))
    print(f"{SCANS} scans: every volume, age and label as in its file, in a new order every epoch")


if __name__ == "__main__":
    main()
