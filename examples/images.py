"""Photographs of leaves, listed in manifests with one of 61 diseases each; and the same ones in class folders."""

import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
from serving import served

import feedline

CLASSES, SIZE = 61, (64, 48)
"""How many diseases there are, and the width and height that photographs are served in."""

COUNTS = {"train": 150, "validation": 40}

CONFIG = """
[datasets.leaves]
kind = "images"
path = "leaves"
views = {train = "train.json", validation = "validation.json"}
image = "image_id"
label = "disease_class"
classes = 61
one_hot = true
size = [64, 48]

[[datasets.leaves.transforms]]
name = "scale"
column = "x"
divide_by = 255
late = true

[datasets.folders]
kind = "class_folders"
path = "folders"
size = [64, 48]
color_mode = "bgr"
interpolation = "area"
"""


def make(folder: Path) -> list[tuple[Path, int]]:
    """Photographs as JPEG and PNG, of many sizes and with names in many languages; each with its class."""
    rng = np.random.default_rng(0)
    (folder / "leaves" / "images" / "葉").mkdir(parents=True)
    listed: list[tuple[Path, int]] = []
    for view, count in COUNTS.items():
        entries = []
        for number in range(count):
            name = f"葉/{view}-{number:03}.jpg" if number % 3 else f"Blatt ä{view}{number}.png"
            path = folder / "leaves" / "images" / name
            width, height = rng.integers(60, 200, 2).tolist()
            leaf = cv2.resize(rng.integers(0, 256, (5, 5, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
            path.write_bytes(cv2.imencode(path.suffix, leaf)[1].tobytes())
            disease = int(rng.integers(CLASSES))
            entries.append({"image_id": name, "disease_class": disease})
            listed.append((path, disease))
            of_class = folder / "folders" / f"disease-{disease:02}"
            of_class.mkdir(parents=True, exist_ok=True)
            (of_class / f"{len(listed):03}{path.suffix}").write_bytes(path.read_bytes())
        (folder / "leaves" / f"{view}.json").write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    (folder / "loader.toml").write_text(CONFIG)
    return listed


def plain(path: Path, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """The photograph as a trainer would read it by itself, in OpenCV's order of colours."""
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    return cv2.resize(image, SIZE, interpolation=interpolation)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        listed = make(folder)
        with served(folder / "loader.toml") as address, feedline.connect(address) as loader:
            assert dict(loader.dataset("leaves").views) == COUNTS
            seen = []
            for view in COUNTS:
                for batch in loader.epoch(dataset="leaves", view=view, batch_size=32, seed=1):
                    x, y = batch
                    assert x.dtype == np.float32
                    for row, sample in enumerate(batch.ids):
                        path, disease = listed[sample]
                        scaled = plain(path)[..., ::-1] / np.float32(255)
                        np.testing.assert_array_equal(x[row], scaled)
                        assert np.flatnonzero(y[row]).tolist() == [disease]
                    seen += batch.ids.tolist()
            assert sorted(seen) == list(range(len(listed)))

            drawn = [
                sample
                for batch in loader.epoch(dataset="leaves", order="replacement", batch_size=50, seed=1)
                for sample in batch.ids.tolist()
            ]
            assert len(drawn) == COUNTS["train"] > len(set(drawn))

            files = sorted((folder / "folders").glob("*/*"))
            names = sorted({path.parent.name for path in files})
            seen = []
            for x, y, ids in ((*batch, batch.ids) for batch in loader.epoch(dataset="folders", batch_size=32, seed=1)):
                for row, sample in enumerate(ids):
                    np.testing.assert_array_equal(x[row], plain(files[sample], cv2.INTER_AREA))
                    assert y[row] == names.index(files[sample].parent.name)
                seen += ids.tolist()
            assert sorted(seen) == list(range(len(files)))
    print(f"{len(listed)} photographs, by manifest and by folder: every pixel is as OpenCV has it")


if __name__ == "__main__":
    main()
