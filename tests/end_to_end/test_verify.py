"""`feedline verify` of real loaders: code with a memory of its own is told from code that draws what it is given."""

import json
from pathlib import Path
from typing import Any

import pytest

from feedline.cli import main

CODE = '''
import numpy as np


class Remembers:
    """What comes depends on how often this process was asked."""

    def __init__(self):
        self.asked = 0

    def __len__(self):
        return 200

    def __getitem__(self, i):
        self.asked += 1
        return np.float32([i, self.asked]), i % 2


class Draws:
    """Random, but seeded by the loader for every sample of every epoch."""

    def __len__(self):
        return 200

    def __getitem__(self, i):
        return np.float32([i, np.random.rand()]), i % 2
'''

CONFIG = """
[datasets.remembers]
kind = "python"
object = "verified:Remembers"
deterministic = false

[datasets.draws]
kind = "python"
object = "verified:Draws"
"""


@pytest.mark.slow
def test_verify_tells_code_that_remembers_from_code_that_draws(
    tmp_path: Path, start_loader: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "verified.py").write_text(CODE)
    (tmp_path / "loader.toml").write_text(CONFIG)
    loader = start_loader(tmp_path / "loader.toml", "--workers", "2")

    def verified(dataset: str) -> tuple[int, dict[str, Any]]:
        code = main(["verify", loader.address, "--dataset", dataset, "--batch-size", "10", "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, found = verified("draws")
    assert (code, found["same"], found["once"]) == (0, True, True)
    code, found = verified("remembers")
    assert (code, found["same"], found["once"]) == (1, False, True)
