"""What a training saw is shown again by its key, or it is said why it cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import feedline
from feedline.cli import main

CODE = """
import itertools
counter = itertools.count()
class Other:
    def __len__(self):
        return 8
    def __getitem__(self, i):
        return [float(next(counter)), 0.0], i
"""


def test_a_batch_of_what_is_not_deterministic_is_not_shown_as_the_one_that_was_seen(
    tmp_path: Path,
    start_loader: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    loader = start_loader(Path("mine:Other"), "--workers", "1", "--nondeterministic")
    with feedline.connect(loader.address, timeout_s=60) as connection:
        feed = connection.feed(batch_size=4)
        key = next(iter(feed)).key
        assert not feed.dataset.is_deterministic

    assert main(["peek", loader.address, "--batch-key", key]) == 1
    refused = capsys.readouterr().err
    assert main(["peek", loader.address, "--batch-size", "4"]) == 0  # any batch, which claims to be none that was seen

    assert "is served with deterministic = false: its code may make another batch of the same key" in refused
