"""What 0.2.0 calls its datasets and what it gives for their keys: later work changes only what it means to.

A fingerprint that changes without its bytes, or bytes without their fingerprint, is a mistake: the first lets nobody
resume, the second mixes two meanings of a key. feedline_server/batches/fingerprint.py says which version to raise; then
both columns of GOLDEN are written anew, for the kinds that were meant.
"""

import base64
import json
import struct
import sys
import zlib
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedline_server.batches.assembly import assemble, most_nbytes
from feedline_server.batches.dataset import Dataset, dataset_of, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import KINDS, Declaration
from feedline_server.sources.kinds.opening import open_source
from feedline_wire.key import Key
from feedline_wire.tensors import views

ROWS = 12

ARROW = (
    "eNrNVDFOw1AMfflN0xD+kKFCGRgYGcsJSHYkpAoJho4cArYehZEjdOwBGHoEbgLPjr9ITBGtxIAVf38/2f5+zk+65fL2/gr4oLwCqCFSIaLAFC"
    "V3lCynD3ol19xWIFBvbP/GfAYGyT83TFOpz5obqTPNFbjVs+b0C6JRvf7sbCK2cTWeGCexhSHS74a7ucVEnFnHUathkmuNBySp6EftXjitjOsU"
    "X5LjZ1k46/HLARZcXezxe1lfc+EoWuqa+kLdUt9lPB07pF5QFx0Gs0hnKE3X+6Fzaf9oLo2zHj9+LvtnkOIKszOzdp9wciT/5hf+4UD+pbMerx"
    "3/4OLCt4r9+67MOx3wSvUi2RXKqO45scNHrnfWq9yJjeVtzabvYJeN8XQPdmGMNyMu/+e7l6fTf9YniWI/aA=="
)
"""Written once by pyarrow, which may write the same otherwise in another version."""


def png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """A PNG that is not compressed: the same bytes whatever the library."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    stored = (
        b"\x78\x01\x01" + struct.pack("<HH", len(raw), 0xFFFF - len(raw)) + raw + struct.pack(">I", zlib.adler32(raw))
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", stored) + chunk(b"IEND", b"")


def numbers(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def columns(folder: Path) -> dict[str, Any]:
    np.save(folder / "x.npy", numbers(ROWS, 3, 4, 2))
    np.save(folder / "y.npy", np.arange(ROWS))
    return {"kind": "columns", "views": {"train": ":8", "validation": "8:"}}


def transformed(folder: Path) -> dict[str, Any]:
    (folder / "golden_code.py").write_text("def noisy(x, rng):\n    return x + rng.integers(0, 9, x.shape)\n")
    return {
        **columns(folder),
        "modules": folder,
        "on_bad_sample": "substitute",
        "transforms": [
            {"name": "random_crop", "column": "x", "size": [2, 2], "padding": 1},
            {"name": "random_flip", "column": "x"},
            {"name": "one_hot", "column": "y", "classes": ROWS},
            {"name": "scale", "column": "x", "divide_by": 4},
        ],
        "filters": [{"column": "y", "is": [0, 1, 2, 3, 5, 8, 9, 11]}],
    }


def id_files(folder: Path) -> dict[str, Any]:
    for number in range(ROWS):
        np.save(folder / f"id-{number}.npy", numbers(2, 2) + number)
    ids = [f"id-{number}" for number in range(ROWS)]
    (folder / "partition.json").write_text(json.dumps({"train": ids[:8], "validation": ids[8:]}))
    (folder / "labels.json").write_text(json.dumps({name: number % 3 for number, name in enumerate(ids)}))
    return {"kind": "id_files", "one_hot": True}


def class_folders(folder: Path) -> dict[str, Any]:
    for number in range(ROWS):
        (folder / f"class-{number % 3}").mkdir(exist_ok=True)
        np.save(folder / f"class-{number % 3}" / f"{number}.npy", numbers(2, 2) + number)
    return {"kind": "class_folders", "validation_split": 0.25}


def images(folder: Path) -> dict[str, Any]:
    entries = []
    for number in range(ROWS):
        (folder / f"{number}.png").write_bytes(
            png(np.full((2, 3, 3), 20 * number, np.uint8) + np.arange(3, dtype=np.uint8))
        )
        entries.append({"image_id": f"{number}.png", "disease_class": number % 3})
    (folder / "manifest.json").write_text(json.dumps(entries))
    return {"kind": "images", "color_mode": "bgr"}


def subjects(folder: Path) -> dict[str, Any]:
    for subject in range(3):
        np.save(folder / f"s{subject}_x.npy", numbers(6, 2) + 100 * subject)
        np.save(folder / f"s{subject}_y.npy", np.arange(6) + subject)
    return {"kind": "subjects", "window": 3, "views": {"train": ["s0", "s1"], "validation": ["s2"]}}


def sequences(folder: Path) -> dict[str, Any]:
    lengths = np.array([3, 0, 2, 1, 5, 4, 1, 2, 3, 1, 2, 6])
    np.save(folder / "lengths.npy", lengths)
    np.save(folder / "x.npy", np.arange(lengths.sum()))
    np.save(folder / "y.npy", np.arange(ROWS))
    return {"kind": "sequences"}


def hdf5(folder: Path) -> dict[str, Any]:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "data.h5", "w") as file:
        file["x"], file["y"] = numbers(ROWS, 2), np.arange(ROWS)
    return {"kind": "hdf5"}


def arrow(folder: Path) -> dict[str, Any]:
    pytest.importorskip("pyarrow")
    (folder / "data.arrow").write_bytes(zlib.decompress(base64.b64decode(ARROW)))
    return {"kind": "arrow"}


def python(folder: Path) -> dict[str, Any]:
    (folder / "golden_objects.py").write_text(
        "import random\n\n\nclass Made:\n    def __len__(self):\n        return 12\n\n"
        "    def __getitem__(self, i):\n        return float(i) + random.randrange(9), i % 3\n\n\nmade = Made()\n"
    )
    return {"kind": "python", "object": "golden_objects:made"}


WRITTEN: dict[str, Callable[[Path], dict[str, Any]]] = {
    "columns": columns,
    "columns, transformed": transformed,
    "id_files": id_files,
    "class_folders": class_folders,
    "images": images,
    "subjects": subjects,
    "sequences": sequences,
    "hdf5": hdf5,
    "arrow": arrow,
    "python": python,
}

GOLDEN: dict[str, tuple[str, str]] = {
    "columns": ("ed087d78f6e86aa266909c14398cb171", "0f4727d62366225e"),
    "columns, transformed": ("1fbf8e18e46ecf1939aab95b243528e3", "a4286d7e60b31d9c"),
    "id_files": ("f516dcc074a35648b1645c2ca4c21b1e", "1608640569d78915"),
    "class_folders": ("024269f800c7ad5f9afeafa706308e56", "0544089cdd83a742"),
    "images": ("9882bb4159aecebb34a59958d306aadc", "f40c7d52a6ae4257"),
    "subjects": ("51077886f4e61702b89d2889c8e0a5f0", "63f26ca8275a5ea6"),
    "sequences": ("cf9d2d880e71cb0b0fef27a39b1f8217", "6ce666112465fffd"),
    "hdf5": ("800c265dd70b096bd5d225380664a9c4", "76c3ac9531e520b9"),
    "arrow": ("8def8f0dd3d40382da7bb7c1c6790361", "c4db7194af49384e"),
    "python": ("244d067160c747b4d66bc9f3bc7f7f99", "51831ea6b87f884a"),
}
"""The fingerprint, and a digest of batches in every order."""


@pytest.mark.parametrize("name", WRITTEN)
def test_a_dataset_of_0_2_0_is_called_as_it_was_and_gives_what_it_gave(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    table = WRITTEN[name](tmp_path)
    config = KINDS[table["kind"]].declare(path=tmp_path, **table)
    dataset = opened(config)

    found = fingerprint(dataset, config).hex(), digest(dataset)

    assert found == GOLDEN[name]


def test_there_is_a_golden_dataset_of_every_kind() -> None:
    assert {name.partition(",")[0] for name in GOLDEN} == set(KINDS)


def opened(config: Declaration) -> Dataset:
    """As the front opens it, but Python here instead of in a process."""
    if config.kind == "python":
        return dataset_of("golden", config, open_source(config))
    return open_dataset("golden", config)


def digest(dataset: Dataset) -> str:
    """Of the arrays of two batches in each order, the second of which runs on into the next epoch."""
    found = blake2b(digest_size=8)
    for order in dataset.orders:
        text = {"blocks": "blocks:2x2", "buckets": "buckets:2x3"}.get(order, order)
        for offset in (0, 5):
            memory = np.empty(2 * most_nbytes(dataset, 4), np.uint8)
            layout = assemble(dataset, Key("golden", b"", "train", text, 7, 1, offset, 4), memory)
            for array, values in views(memory[: layout.nbytes], layout).items():
                found.update(f"{array} {values.dtype.str} {values.shape}".encode())
                found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()
