"""The tier of each test: which command runs it, and who waits for the answer. CONTRIBUTING.md explains the tiers.

A test belongs to exactly one tier. Its marker decides, else its folder. `pytest --tier NAME` selects one tier; without
it pytest selects `unit` and `promise`, which is what `scripts/test` runs, and the tiers on demand that `-m` names.
"""

import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Final

import pytest

UNIT: Final = "unit"
"""`scripts/check`: answers in seconds, starts no loader and imports no framework."""

PROMISE: Final = "promise"
"""`scripts/test`, together with `unit`: all that proves a promise with what the base groups install."""

ON_DEMAND: Final = ("torch", "frameworks", "engines", "browser", "docker", "soak", "mutate", "gpu")
"""`scripts/test -m NAME`: needs packages, programs or hours that not everybody has."""

TIERS: Final = (UNIT, PROMISE, *ON_DEMAND)

UNIT_FOLDERS: Final = frozenset({"wire", "client", "server", "suite"})
"""Where a test that carries no marker is a unit test. In all other folders it starts real processes."""

NOT_UNIT: Final = frozenset({"slow", "keras", "alone"})
"""Markers of tests in those folders that take seconds, import TensorFlow or need the machine for themselves."""


def tier_of(folder: str, markers: Collection[str]) -> str:
    """The tier of a test in `tests/<folder>` with these markers. Raises ValueError where two tiers claim it."""
    claimed = [name for name in ON_DEMAND if name in markers]
    if len(claimed) > 1:
        raise ValueError(f"a test has one tier, not {' and '.join(claimed)}")
    if claimed:
        return claimed[0]
    return UNIT if folder in UNIT_FOLDERS and NOT_UNIT.isdisjoint(markers) else PROMISE


def selected_tiers(option: str | None, marker_expression: str) -> frozenset[str]:
    """The tiers that a run takes: those of `--tier`, else the base ones and what `-m` names."""
    if option is not None:
        return frozenset(TIERS if option == "all" else {option})
    named = set(re.findall(r"\w+", marker_expression))
    return frozenset({UNIT, PROMISE} | (named & set(ON_DEMAND)))


WHOLE_FILE: Final = re.compile(rf"^pytestmark = .*\bmark\.({'|'.join((*NOT_UNIT, *ON_DEMAND))})\b", re.MULTILINE)
"""How a file says that none of its tests is a unit test."""


def names_tier(text: str, name: str) -> bool:
    """This file has the marker of a tier on demand; one that has not holds none of its tests."""
    return re.search(rf"\bmark\.{name}\b", text) is not None


# ---- pytest ----

_FOUND: Final = pytest.StashKey[Counter[str]]()

_RUN: Final = pytest.StashKey[tuple[int, int]]()


def found(config: pytest.Config) -> Counter[str]:
    """How many tests of each tier this run has found."""
    return config.stash.get(_FOUND, Counter())


def selected(config: pytest.Config) -> tuple[int, int]:
    """How many of the tests that this run has found it takes by their tier, and how many it has found."""
    return config.stash[_RUN]


def is_default(config: pytest.Config) -> bool:
    """This run is that of `scripts/test` without arguments that select: it has collected the whole suite."""
    paths = {config.rootpath / path for path in config.args}
    asked = [config.option.tier, config.option.markexpr, config.option.keyword, config.getoption("lf", default=False)]
    return paths == {config.rootpath / path for path in config.getini("testpaths")} and not any(asked)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--tier`."""
    parser.addoption("--tier", choices=["all", *TIERS], help="run the tests of this tier alone (CONTRIBUTING.md)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves files unread that hold nothing of the only tier that runs: some import TensorFlow, which takes seconds."""
    if collection_path.suffix != ".py":
        return None
    if config.option.tier == UNIT:
        return bool(WHOLE_FILE.search(collection_path.read_text())) or None
    if config.option.tier is None and (name := config.option.markexpr) in ON_DEMAND:
        return not names_tier(collection_path.read_text(), name) or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests of other tiers."""
    tiers = selected_tiers(config.option.tier, config.option.markexpr)
    tests = config.rootpath / "tests"
    tier = {item: _tier(item, tests) for item in items}
    for path, name in {(item.path, name) for item, name in tier.items() if name in ON_DEMAND}:
        if not names_tier(path.read_text(), name):
            raise pytest.UsageError(f"{path}: `-m {name}` would not read it; put the marker into the file itself")
    config.stash[_FOUND] = Counter(tier.values())
    config.hook.pytest_deselected(items=[item for item in items if tier[item] not in tiers])
    taken = [item for item in items if tier[item] in tiers]
    config.stash[_RUN] = len(taken), len(items)
    items[:] = taken


def pytest_report_collectionfinish(config: pytest.Config) -> str:
    """How many tests of each tier were found."""
    numbers = found(config)
    return f"tiers: {', '.join(f'{name} {numbers[name]}' for name in TIERS if numbers[name])}"


def _tier(item: pytest.Item, here: Path) -> str:
    folder = item.path.relative_to(here).parts[0]
    return tier_of(folder, {mark.name for mark in item.iter_markers()})
