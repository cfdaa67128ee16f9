"""`feedline top`: what a terminal of eighty columns shows, what keys do, and what is left of it without a terminal."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from rich.console import Console

from feedline.cli import main
from feedline.cli.top import SORTS, Choice, bar, ordered, shown
from feedline.testing import FakeLoader, serve
from feedline_wire.view import Values

LOADER: Values = {
    "address": "loader-1.example.com:50051", "replica": "r", "version": "0.2.0", "state": "short of workers",
    "workers": 16, "busy": 0.984, "arena_bytes": 1000, "arena_lent": 250, "bytes_per_s": 1.5e9, "batch_s": 0.0234,
    "batches": 900, "trainers": 1, "bad_samples": 1234, "worker_deaths": 2,
}  # fmt: skip
TRAINER: Values = {
    "trainer": "a", "dataset": "voxels", "view": "train", "rank": 0, "world": 8, "lane": "tcp", "epoch": 3, "step": 49,
    "steps": 100, "left_s": 75.0, "samples_per_s": 1234.0, "waiting_share": 0.38,
    "waits": {"transform": 0.3, "send": 0.08},
}  # fmt: skip
FOUND: Values = {
    "loaders": [LOADER],
    "trainers": [TRAINER, {**TRAINER, "rank": 1, "waiting_share": 0.5, "samples_per_s": 900.0, "step": 50}],
    "verdicts": [{"training": "voxels/train", "sentence": "The trainer waited.", "cause": "workers"}],
    "problems": ["loader-2: no answer"],
}


def text(found: Values, choice: Choice, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(shown(found, choice))
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in written.splitlines() if line.strip()]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_all_numbers_are_to_be_seen_from_eighty_columns_on(width: int) -> None:
    lines = text(FOUND, Choice(), width)

    assert max(map(len, lines)) <= width
    for number in ("98.4 %", "25.0 %", "1.5 GB/s", "23.4 ms", "1,234", "3 #####-----", "0:01:15", "38.0 %", "50.0 %"):
        assert any(number in line for line in lines), number
    assert any("transform" in line and "tcp" in line for line in lines)
    assert lines[-2:] == ["loader-2: no answer", "voxels/train: The trainer waited."]


def test_eighty_columns_hold_an_address_as_a_whole() -> None:
    well = {**LOADER, "address": "192.168.100.200:50051", "bad_samples": 0, "worker_deaths": 0}
    lines = text({**FOUND, "loaders": [well]}, Choice(), 80)

    assert max(map(len, lines)) <= 80
    assert sum("192.168.100.200:50051 " in line for line in lines) == 1
    assert not any("died" in line for line in lines)


def test_one_trainer_is_looked_into() -> None:
    lines = text(FOUND, Choice(is_open=True), 80)

    assert any(line.split() == ["transform", "30.0", "%"] for line in lines)
    assert any(line.split() == ["send", "8.0", "%"] for line in lines)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", Choice()),
        ("s", Choice(sort=1)),
        ("s" * len(SORTS), Choice()),
        ("jjj", Choice(at=1)),
        ("jk", Choice()),
        ("\r", Choice(is_open=True)),
        ("\r\n", Choice()),
        ("x?", Choice()),
        ("q", Choice(has_ended=True)),
    ],
)
def test_keys(keys: str, expected: Choice) -> None:
    choice = Choice()

    for key in keys:
        choice.press(key, lines=2)

    assert choice == expected


def test_trainers_are_sorted_with_most_first_but_by_rank() -> None:
    assert [one["rank"] for one in ordered(FOUND["trainers"], "rank")] == [0, 1]
    assert [one["rank"] for one in ordered(FOUND["trainers"], "waiting_share")] == [1, 0]
    assert [one["rank"] for one in ordered(FOUND["trainers"], "samples_per_s")] == [0, 1]


@pytest.mark.parametrize(
    ("step", "steps", "expected"), [(0, 100, "-" * 10), (49, 100, "#####-----"), (99, 100, "#" * 10), (5, 0, "-" * 10)]
)
def test_a_bar(step: int, steps: int, expected: str) -> None:
    assert bar(step, steps) == expected


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    with serve({"x": np.zeros((20, 2), np.float32)}, name="numbers") as running:
        yield running


def test_once_as_json_has_every_loader_and_what_is_wrong(
    loader: FakeLoader, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["top", f"{loader.address},127.0.0.1:1", "--once", "--json", "--timeout-s", "5"])

    found = json.loads(capsys.readouterr().out)
    assert code == 1
    assert [one["address"] for one in found["loaders"]] == [loader.address]
    assert "127.0.0.1:1" in found["problems"][0]
    assert found["verdicts"][0]["cause"] == "unknown"


def test_without_a_terminal_it_is_printed_once(loader: FakeLoader, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", loader.address]) == 0

    assert "does not say how its" in capsys.readouterr().out


@pytest.mark.slow
def test_on_a_terminal_it_is_live_until_q_and_leaves_the_terminal_as_it_was(loader: FakeLoader) -> None:
    command = [sys.executable, "-m", "feedline", "top", loader.address, "--every-s", "0.2"]
    master, slave = pty.openpty()
    try:
        with subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"}
        ) as process:
            seen = b""
            until = time.monotonic() + 60
            while b"does not say" not in seen and time.monotonic() < until:
                if select.select([master], [], [], 1)[0]:
                    seen += os.read(master, 65536)
            os.write(master, b"sjq")
            while process.poll() is None and time.monotonic() < until:
                if select.select([master], [], [], 0.1)[0]:
                    seen += os.read(master, 65536)
            code = process.wait(1)
        assert code == 0, seen
        assert b"\x1b[?1049h" in seen  # the other screen, and back
        assert b"\x1b[?1049l" in seen
    finally:
        os.close(master)
        os.close(slave)
