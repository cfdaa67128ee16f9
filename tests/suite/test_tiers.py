"""Every test has one tier, and the commands together run them all."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiers import PROMISE, TIERS, UNIT, WHOLE_FILE, found, is_default, names_tier, selected, selected_tiers, tier_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("folder", "markers", "tier"),
    [
        ("server", [], UNIT),
        ("server", ["parametrize", "timeout"], UNIT),
        ("server", ["slow"], PROMISE),
        ("client", ["keras"], PROMISE),
        ("client", ["alone"], PROMISE),
        ("end_to_end", [], PROMISE),
        ("faults", ["soak", "timeout"], "soak"),
        ("end_to_end", ["docker", "slow"], "docker"),
        ("client", ["gpu", "keras"], "gpu"),
    ],
)
def test_a_marker_decides_the_tier_else_the_folder(folder: str, markers: list[str], tier: str) -> None:
    assert tier_of(folder, markers) == tier


def test_a_test_of_two_tiers_on_demand_is_refused() -> None:
    with pytest.raises(ValueError, match="a test has one tier, not docker and soak"):
        tier_of("faults", ["soak", "docker"])


@pytest.mark.parametrize(
    ("option", "expression", "tiers"),
    [
        (None, "", {UNIT, PROMISE}),
        (None, "slow and not keras", {UNIT, PROMISE}),
        (None, "docker", {UNIT, PROMISE, "docker"}),  # the expression leaves the base tiers out
        ("unit", "", {UNIT}),
        ("all", "", set(TIERS)),
    ],
)
def test_what_a_run_takes(option: str | None, expression: str, tiers: set[str]) -> None:
    assert selected_tiers(option, expression) == tiers


@pytest.mark.parametrize(
    ("line", "is_left_out"),
    [
        ("pytestmark = pytest.mark.keras", True),
        ('pytestmark = [pytest.mark.keras, pytest.mark.filterwarnings("ignore")]', True),
        ("pytestmark = [pytest.mark.docker]", True),
        ("pytestmark = pytest.mark.timeout(60)", False),
        ("@pytest.mark.keras", False),
    ],
)
def test_a_file_says_that_it_has_no_unit_test(line: str, is_left_out: bool) -> None:
    assert bool(WHOLE_FILE.search(f"import pytest\n\n{line}\n")) == is_left_out


@pytest.mark.parametrize(
    ("line", "is_read"),
    [
        ("pytestmark = [pytest.mark.docker, pytest.mark.timeout(60)]", True),
        ("@pytest.mark.docker", True),
        ("    pytest.param(3, marks=pytest.mark.docker),", True),
        ("pytestmark = pytest.mark.keras", False),
        ("import docker", False),
    ],
)
def test_a_file_is_read_for_a_tier_on_demand_if_it_has_its_marker(line: str, is_read: bool) -> None:
    assert names_tier(f"import pytest\n\n{line}\n", "docker") == is_read


@pytest.mark.slow
@pytest.mark.timeout(600)  # the collection imports TensorFlow
def test_the_tiers_add_up_to_all_tests(request: pytest.FixtureRequest) -> None:
    """Every test has one tier, scripts/test runs those of two tiers, and the others are run on demand."""
    if is_default(request.config):  # it has collected all tests: to do so again takes as long as a hundred of them
        tiers, (by_default, of_all) = dict(found(request.config)), selected(request.config)
    else:
        tiers, (by_default, of_all) = collected()

    assert of_all == sum(tiers.values())
    assert by_default == tiers[UNIT] + tiers[PROMISE]
    assert set(tiers) <= set(TIERS)


def collected() -> tuple[dict[str, int], tuple[int, int]]:
    """What a run without arguments finds: tests by tier, those that it takes, and all."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    [line] = [line for line in run.stdout.splitlines() if line.startswith("tiers: ")]
    tiers = {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", line)}
    counts = re.search(r"^=+ (\d+)/(\d+) tests collected", run.stdout, re.MULTILINE)
    assert counts is not None, run.stdout[-500:]
    return tiers, (int(counts[1]), int(counts[2]))
