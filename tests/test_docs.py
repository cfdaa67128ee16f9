"""The API reference is whole; scripts/docs tests its docstrings and links when it builds the site."""

import re
from pathlib import Path

import pytest

import feedline
import feedline.testing

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize("package", [feedline, feedline.testing], ids=lambda package: package.__name__)
def test_the_reference_has_every_public_name_and_no_other(package: object) -> None:
    name = package.__name__  # type: ignore[attr-defined]
    shown = re.findall(rf"^::: {re.escape(name)}\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)

    assert sorted(shown) == sorted(package.__all__)  # type: ignore[attr-defined]
