"""`feedline verify` finds what breaks the promise of keys, and nothing where it holds."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from feedline.cli import main, verify
from feedline.testing import FakeLoader, serve

SAMPLES = 640


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    """x[i] is all i (float32, 2 x 3); y[i] = i % 4."""
    return {"x": np.repeat(np.arange(SAMPLES, dtype=np.float32), 6).reshape(-1, 2, 3), "y": np.arange(SAMPLES) % 4}


@pytest.fixture
def loader(columns: dict[str, np.ndarray]) -> Iterator[FakeLoader]:
    with serve(columns, name="numbers") as running:
        yield running


def verified(loader: FakeLoader, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, object]]:
    code = main(["verify", loader.address, "--batch-size", "32", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def during(monkeypatch: pytest.MonkeyPatch, happens: Callable[[str, int], None]) -> None:
    """Let something happen when the command shows how far it is, and with what."""
    monkeypatch.setattr(verify, "Progress", lambda _unit, about: lambda done, _whole: happens(about, done))


def test_a_loader_that_keeps_its_promises_passes(loader: FakeLoader, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = verified(loader, capsys)

    assert code == 0
    assert (found["same"], found["once"], found["asked_again"]) == (True, True, 20)
    assert found["samples"] == {"wanted": 640, "distinct": 640, "again": 0}


def test_a_view_of_twenty_samples_is_verified_and_measured_with_the_usual_batch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serve({"x": np.arange(20.0, dtype=np.float32), "y": np.arange(20) % 4}) as loader:
        verify_code = main(["verify", loader.address])
        shown = capsys.readouterr().out
        bench_code = main(["bench", loader.address, "--seconds", "0.1"])

    assert (verify_code, bench_code) == (0, 0)
    assert "once       yes: each of 20 samples once" in shown
    assert "batches of 20 from" in capsys.readouterr().out


def test_numbers_stand_beside_those_of_a_random_order(loader: FakeLoader, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["verify", loader.address, "--batch-size", "32"])

    shown = capsys.readouterr().out
    assert code == 0
    assert "same       yes: 20 batches" in shown
    assert "once       yes: each of 640 samples once" in shown
    for line in ("(0)  correlation of position and place", "(1)  batches against classes"):
        assert line in shown


def test_an_order_that_is_not_random_shows_it_and_is_no_failure(
    loader: FakeLoader, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = verified(loader, capsys, "--order", "sequential")

    mixed = found["mixed"]
    assert code == 0
    assert isinstance(mixed, dict)
    assert mixed["drift"] == pytest.approx(1)
    assert mixed["parts"] > 5


def test_a_batch_that_is_another_when_it_is_asked_again_is_told_with_its_column(
    loader: FakeLoader,
    columns: dict[str, np.ndarray],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of an unseeded generator."""

    def spoil(about: str, done: int) -> None:
        if (about, done) == ("epoch 1", 20):
            columns["y"] += 1

    during(monkeypatch, spoil)

    code, found = verified(loader, capsys)

    differences = found["differences"]
    assert code == 1
    assert found["same"] is False
    assert isinstance(differences, list)
    assert {tuple(one["columns"]) for one in differences} == {("y",)}
    assert {one["address"] for one in differences} == {loader.address}


def test_a_sample_that_comes_twice_is_told(capsys: pytest.CaptureFixture[str], columns: dict[str, np.ndarray]) -> None:
    with serve(columns, views={"train": [0, 1, 2, 2]}) as loader:
        code, found = verified(loader, capsys, "--batch-size", "2")

    assert code == 1
    assert found["once"] is False
    assert found["samples"] == {"wanted": 4, "distinct": 3, "again": 1}


def test_a_part_of_an_epoch_says_nothing_of_the_whole(loader: FakeLoader, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = verified(loader, capsys, "--batches", "3", "--again", "2")

    assert code == 0
    assert (found["once"], found["asked_again"]) == (None, 2)


@pytest.mark.parametrize(("steps", "wanted", "numbers"), [(3, 64, {0, 1, 2}), (100, 3, {0, 50, 99}), (1, 5, {0})])
def test_batches_that_are_asked_again_are_spread_over_the_epoch(steps: int, wanted: int, numbers: set[int]) -> None:
    assert set(verify.again(steps, wanted)) == numbers


# ---- ready batches ----


def units(rows: list[int]) -> list[np.ndarray]:
    return list(np.array(rows).reshape(-1, 4))


def test_of_ready_batches_the_rows_are_compared_and_batches_are_called_batches(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serve({"x": units([*range(16)]), "y": units([0, 1] * 8)}, kind="batches") as loader:
        code = main(["verify", loader.address])

    shown = capsys.readouterr().out
    assert code == 0
    assert "once       yes: each of 4 batches once" in shown
    assert "rows       yes: the same 16 rows as in the next epoch, each as often" in shown


def test_rows_that_come_again_and_again_while_others_are_missing_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "each of 64 samples once" counted the batches' numbers: 5 rows were missing, and others came 13 times."""
    x = units([0, 1, 2, 3] * 3 + [12, 13, 14, 15])

    def go_on(about: str, done: int) -> None:
        if (about, done) == ("epoch 0", 4):
            for unit, rows in zip(x, units([*range(16)]), strict=True):
                unit[:] = rows

    during(monkeypatch, go_on)
    with serve({"x": x}, kind="batches") as loader:
        code = main(["verify", loader.address])

    assert code == 1
    words = (
        "rows       NO: 8 of 16 rows are repetitions, the most frequent came 3 times, while 8 rows of the next epoch"
    )
    assert words in capsys.readouterr().out
