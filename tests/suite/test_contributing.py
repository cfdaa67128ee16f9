"""CONTRIBUTING.md is true: what it names is there, and it names all there is."""

import re
from pathlib import Path

import pytest
from tiers import TIERS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()

PATH = re.compile(r"`((?:server|client|protos|tests|scripts|docs|\.ci)/[\w./-]*)`")


def test_every_path_is_there() -> None:
    named = set(PATH.findall(TEXT))

    assert {name for name in named if not (ROOT / name).exists()} == set()
    assert len(named) > 20


@pytest.mark.parametrize(
    ("package", "alone"), [("server/feedline_server", {"__main__"}), ("client/feedline", {"__main__"})]
)
def test_every_room_is_in_the_table(package: str, alone: set[str]) -> None:
    rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")} - alone

    assert {name for name in rooms if f"| `{name}/` |" not in TEXT} == set()


def test_every_tier_is_in_the_table() -> None:
    tiers = TEXT.split("## Tiers of tests")[1].split("\n## ")[0]

    assert re.findall(r"^\| (\w+) \| `", tiers, re.MULTILINE) == [*TIERS[:2], "CI", *TIERS[2:]]
