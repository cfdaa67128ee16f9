"""What the tests of faults share: the line between trainers and loaders."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _module(name: str) -> ModuleType:
    """A module beside this file; pytest's import mode puts no folder of tests on the path."""
    if (known := sys.modules.get(f"feedline_faults_{name}")) is not None:
        return known
    spec = importlib.util.spec_from_file_location(f"feedline_faults_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def line() -> Iterator[Callable[..., Any]]:
    """Put a line before loaders: `line(address, delay_s=0.02)` is a `Proxy` (proxy.py), closed after the test."""
    with ExitStack() as open_lines:

        def lay(*targets: str, **options: Any) -> Any:
            return open_lines.enter_context(_module("proxy").Proxy(*targets, **options))

        yield lay
