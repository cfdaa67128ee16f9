"""What is seen of loaders where something is wrong: trainers that lie, pages that hang, dead loaders, bad data."""

import json
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shown import free_address, got

import feedline
from feedline.cli import main
from feedline_server.watching.http import MOST_CONNECTIONS
from feedline_wire import loader_pb2 as pb

MOST = 2**64 - 1


def test_a_trainer_that_lies_in_its_figures_harms_only_its_own_line(
    hundred_and_one: Path, start_loader: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = free_address()
    loader = start_loader(hundred_and_one, "--workers", "1", "--metrics-listen", metrics)
    lie = pb.Reader(
        dataset="numbered", view="train", rank=7, world=9, trainer="\x1b[31m<script>\n" * 99, lane='"} 1\nx' * 99,
        epoch=MOST, step=MOST, steps=MOST, batches=MOST, rows=MOST, elapsed_us=1, total_batches=MOST, total_rows=MOST,
        waited_us=[MOST] * 99, total_waited_us=[MOST] * 99,
    )  # fmt: skip
    unserved = pb.Reader(dataset="no such", view="train", trainer="x", total_batches=5)
    with (
        feedline.connect(loader.address, timeout_s=60) as honest,
        feedline.connect(loader.address, timeout_s=60) as liar,
    ):
        feed, lying = honest.feed(batch_size=10), iter(liar.feed(batch_size=1))
        until = time.monotonic() + 60
        while "feedline_trainer_batches_total{" not in got(metrics, "/metrics") or time.monotonic() < until - 57:
            assert time.monotonic() < until
            for _ in feed:
                liar._fleet.report(lie)
                next(lying, None)
                liar._fleet.report(unserved)
                next(lying, None)
                time.sleep(0.05)
        text = got(metrics, "/metrics")
        code = main(["top", loader.address, "--once", "--json"])
        found = json.loads(capsys.readouterr().out)
        main(["top", loader.address, "--once"])
        shown = capsys.readouterr().out
        main(["why", loader.address])
        said = capsys.readouterr().out
        page = json.loads(got(metrics, "/view.json"))
        given = feed.stats

    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    own = 'feedline_trainer_rows_total{dataset="numbered",view="train",rank="0"}'
    assert 0 < float(lines[own]) <= given.rows + 2 * given.batches  # its own feed's, and the liar's, of that rank
    assert "no such" not in text
    assert code == 0
    by_rank = {one["rank"]: one for one in found["trainers"] if one["rank"] or one["samples_per_s"] > 0}
    assert by_rank[0]["epoch"] < 1000
    assert by_rank[7]["trainer"] == "??31m?script??" + "??"
    assert "\x1b[31m" not in shown
    assert "> 1000 years" in shown or by_rank[7]["left_s"] is None or by_rank[7]["left_s"] < 1e9
    assert "numbered/train: " in said
    assert {one["rank"] for one in page["trainers"]} >= {0, 7}


def test_scrapers_that_do_not_read_and_pages_that_hang_delay_no_batch(
    hundred_and_one: Path, start_loader: Callable[..., Any]
) -> None:
    metrics = free_address()
    loader = start_loader(hundred_and_one, "--workers", "1", "--metrics-listen", metrics)
    host, _, port = metrics.partition(":")
    with feedline.connect(loader.address, timeout_s=60) as connection:
        feed = connection.feed(batch_size=3)

        def epoch_s() -> float:
            began = time.monotonic()
            assert Counter(i for batch in feed for i in batch.ids.tolist()) == Counter(range(101))
            return time.monotonic() - began

        before = min(epoch_s() for _ in range(3))
        hanging = [socket.create_connection((host, int(port))) for _ in range(MOST_CONNECTIONS)]
        try:
            for number, one in enumerate(hanging):  # half have asked and do not read, half have not asked to the end
                path = b"/events" if number < MOST_CONNECTIONS // 2 else b"/view.json"
                one.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + b"\r\n" * (number % 2))
            during = min(epoch_s() for _ in range(3))
        finally:
            for one in hanging:
                one.close()

    assert during < 10 * before + 1.0


def test_why_and_top_name_a_loader_that_is_dead(
    hundred_and_one: Path, start_loader: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    address = start_loader(hundred_and_one, "--workers", "1").address
    dead = free_address()

    assert main(["why", f"{address},{dead}", "--timeout-s", "5"]) == 1
    why = capsys.readouterr()
    assert main(["top", f"{address},{dead}", "--once", "--timeout-s", "5"]) == 1
    top = capsys.readouterr().out

    assert "No trainer has said how it fares" in why.out
    assert f"refused by {dead}, where nothing listens" in why.err
    assert dead in top.replace("\n", " ")


def test_why_and_top_say_that_loaders_serve_different_data(
    hundred_and_one: Path, tmp_path: Path, start_loader: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / hundred_and_one.name
    other.mkdir()
    np.save(other / "x.npy", np.ones((101, 4), np.float32))
    np.save(other / "y.npy", np.arange(101))
    target = ",".join(start_loader(path, "--workers", "1").address for path in (hundred_and_one, other))

    assert main(["why", target]) == 1
    why = capsys.readouterr()
    assert main(["top", target, "--once", "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]

    assert "different data" in why.err or "fingerprint" in why.err
    assert problem in why.err


def test_the_page_lists_bad_samples_with_the_values_that_are_wrong(
    tmp_path: Path, start_loader: Callable[..., Any]
) -> None:
    x = np.ones((40, 2, 3), np.float32)
    x[7, 1, 0] = np.nan
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", x)
    np.save(tmp_path / "d" / "y.npy", np.arange(40))
    (tmp_path / "loader.toml").write_text('[datasets.d]\npath = "d"\nnan = "error"\non_bad_sample = "skip"\n')
    metrics = free_address()
    loader = start_loader(tmp_path / "loader.toml", "--workers", "1", "--metrics-listen", metrics)
    with feedline.connect(loader.address, timeout_s=60) as connection:
        assert sum(batch.rows for batch in connection.feed(batch_size=10)) == 39

    (bad,) = json.loads(got(metrics, "/view.json"))["bad_samples"]

    assert (bad["dataset"], bad["samples"]) == ("d", [7])
    assert "in sample 7 (1 of 6 values of the first, from [1, 0] on: 1 1 nan 1 1)" in bad["message"]
