"""Tests that the documentation names as proof of a promise exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NAMED = re.compile(r"`(?:[\w/]*/)?(test_\w+)(…|\.py)?`")
"""In full, cut off by an ellipsis, or a file."""

DOCS = sorted(path.name for path in (ROOT / "docs").glob("*.md") if NAMED.search(path.read_text()))


@pytest.fixture(scope="module")
def tests() -> set[str]:
    return {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^\s*def (test_\w+)", path.read_text(), re.M)
    }


@pytest.mark.parametrize("page", DOCS)
def test_every_test_that_a_page_names_exists(page: str, tests: set[str]) -> None:
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    known = {".py": lambda name: f"{name}.py" in files, "": lambda name: name in tests}
    known["…"] = lambda name: any(test.startswith(name) for test in tests)

    assert [name + how for name, how in NAMED.findall((ROOT / "docs" / page).read_text()) if not known[how](name)] == []


def test_the_page_of_what_is_promised_names_some() -> None:
    assert {"reliability.md", "security.md"} <= set(DOCS)
