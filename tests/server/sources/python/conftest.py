"""Modules of the operator's, written by a test and opened as a worker opens them, in the test's own process."""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from feedline_server.batches.dataset import Dataset, dataset_of
from feedline_server.declared.datasets import PythonConfig
from feedline_server.sources.kinds import python

Open = Callable[..., Dataset]


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Write modules, forgotten again at the end: `code(my_classes="…")` gives their folder."""
    before, numpy_state, python_state = set(sys.modules), np.random.get_state(), random.getstate()
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a text written anew within a second must be read anew
    monkeypatch.chdir(tmp_path)

    def write(**modules: str) -> Path:
        for name, text in modules.items():
            file = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            file.parent.mkdir(exist_ok=True)
            file.write_text(dedent(text))
        forget()
        return tmp_path

    def forget() -> None:
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
                del sys.modules[name]

    yield write
    forget()
    random.setstate(python_state)
    np.random.set_state(numpy_state)


@pytest.fixture
def opened(code: Callable[..., Path]) -> Open:
    """Open objects of the module `m` as a worker does: `opened(text, "m:name", **declared)`."""

    def open_it(text: str, name: str | None = "m:made", **declared: Any) -> Dataset:
        folder = code(m="import random\nimport numpy as np\n" + dedent(text))
        config = PythonConfig.declare(path=folder, object=name, **declared)
        found = python.opened(config)
        return dataset_of("d", config, found, tuple(found.notes()))

    return open_it
