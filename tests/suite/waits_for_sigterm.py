"""Tests that start loaders and never end by themselves; test_ending.py runs them, their name hides them from others."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", range(2))
def test_waits(number: int, start_loader: Callable[..., Any], start_shared_loader: Callable[..., Any]) -> None:
    data = Path(os.environ["ENDING_DATA"])
    start_loader(data, "--workers", "1")
    start_shared_loader(data, "--workers", "1")

    with Path(os.environ["ENDING_READY"]).open("a") as ready:
        ready.write(f"{number}\n")
    threading.Event().wait()
