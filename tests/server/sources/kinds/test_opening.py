"""A kind of dataset is a class of declarations and a module of its name, loaded by what opens such a dataset."""

import json
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from feedline_server.declared.datasets import KINDS, ColumnsConfig, PythonConfig

WORKER = """
import json, pickle, sys
import numpy as np
import feedline_server.workers.worker
from feedline_server.batches.assembly import assemble, most_nbytes
from feedline_server.batches.dataset import open_dataset_in_worker
from feedline_server.batches.fingerprint import fingerprint
from feedline_wire.key import Key

config = pickle.loads(sys.stdin.buffer.read())
dataset = open_dataset_in_worker("d", config)
identity = fingerprint(dataset, config)
assemble(dataset, Key("d", identity, "train", "shuffle", 0, 0, 0, 4), np.empty(most_nbytes(dataset, 4), np.uint8))
print(json.dumps(sorted(sys.modules)))
"""
"""What a worker loads, opens and does for its first batch."""


def loaded(config: ColumnsConfig) -> set[str]:
    command = [sys.executable, "-c", WORKER]
    out = subprocess.run(command, input=pickle.dumps(config), capture_output=True, check=True)
    return set(json.loads(out.stdout))


def test_a_worker_of_columns_loads_what_columns_need_and_no_more(columns_folder: Path) -> None:
    found = loaded(ColumnsConfig.declare(path=columns_folder))

    assert {name.partition(".")[0] for name in found} & {
        "cv2",
        "google",
        "grpc",
        "h5py",
        "pyarrow",
        "pydantic",
        "structlog",
    } == set()
    rooms = ("feedline_server.sources.", "feedline_server.transforms.", "feedline_server.batches.")
    ours = {name.removeprefix("feedline_server.") for name in found if name.startswith(rooms)}
    assert {name for name in ours if name.startswith("sources.kinds.")} == {
        "sources.kinds.columns",
        "sources.kinds.opening",
    }
    assert not {name for name in ours if name.startswith(("sources.images", "sources.python", "sources.files"))}
    assert not {"transforms.code", "transforms.images", "batches.filters", "batches.bad_samples"} & ours


@pytest.mark.parametrize(
    ("declared", "module"),
    [
        ({"transforms": [{"name": "scale", "column": "x"}]}, "feedline_server.transforms.elementwise"),
        ({"on_bad_sample": "skip"}, "feedline_server.batches.bad_samples"),
    ],
)
def test_a_worker_loads_what_its_declaration_asks_for(
    columns_folder: Path, declared: dict[str, Any], module: str
) -> None:
    assert module in loaded(ColumnsConfig.declare(path=columns_folder, **declared))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_module_of_its_name_that_opens_it(kind: str) -> None:
    assert callable(import_module(f"feedline_server.sources.kinds.{kind}").opened)
    assert KINDS[kind].kind == kind  # type: ignore[comparison-overlap]


def test_declarations_that_came_by_pickle_differ_by_every_key() -> None:
    """Two Python datasets of a loader were taken for each other: of a class that had not become a dataclass yet in the
    worker, the keys of its base class alone were compared."""
    objects = ("my_data:batches", "my_data:stream")
    values = [PythonConfig.declare(kind="python", path="folder", object=name) for name in objects]
    program = (
        "import pickle, sys\n"
        "from feedline_server.declared.datasets import Declaration\n"
        "Declaration.fields()\n"
        "first, second, again = pickle.load(sys.stdin.buffer)\n"
        "print(first == second, first == again)"
    )

    found = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps((*values, pickle.loads(pickle.dumps(values[0])))),
        capture_output=True,
        check=True,
    )

    assert found.stdout.decode().split() == ["False", "True"]
