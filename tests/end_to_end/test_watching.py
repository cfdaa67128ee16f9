"""What is seen of loaders where something is wrong: trainers that lie, pages that hang, dead loaders, bad data."""

import base64
import hashlib
import json
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ports import free_address
from shown import got

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
    assert shown(metrics, bad)["title"] == "sample 7, as it would have been sent"


CODE = """
import numpy as np

def checked(x):
    if x[0, 0, 0] == 7:
        raise ValueError("seven")
    return x

def together(x):
    if (x == 200).any():
        raise ValueError("among these")
    return x

class Pictures:
    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == 3:
            raise KeyError("no label of 3")
        image = np.full((16, 16, 3), index, np.uint8)
        if index == 5:
            raise ValueError("five")
        return image[:8] if index == 9 else image, index
"""

CONFIG = """
[datasets.each]
path = "x"
on_bad_sample = "skip"
transforms = [{code = "mine:checked", column = "x"}]
[datasets.batch]
path = "x"
transforms = [{code = "mine:together", column = "x", per = "batch"}]
[datasets.own]
object = "mine:Pictures"
on_bad_sample = "skip"
[datasets.files]
path = "files"
on_bad_sample = "skip"
"""


@pytest.fixture
def of_bad_samples(tmp_path: Path) -> Path:
    """Datasets whose bad samples are bad in a way each: code that raises, what it returns, a file."""
    x = np.zeros((12, 16, 16, 3), np.uint8)
    x[:, 0, 0, 0] = np.arange(12)
    x[10, 5, 5, 1] = 200
    for folder in ("x", "files/data"):
        (tmp_path / folder).mkdir(parents=True)
    np.save(tmp_path / "x" / "x.npy", x)
    for number in range(4):
        np.save(tmp_path / "files" / "data" / f"id-{number}.npy", x[number])
    (tmp_path / "files" / "data" / "id-2.npy").write_bytes(b"")
    ids = [f"id-{number}" for number in range(4)]
    (tmp_path / "files" / "partition.json").write_text(json.dumps({"train": ids}))
    (tmp_path / "files" / "labels.json").write_text(json.dumps(dict.fromkeys(ids, 0)))
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "loader.toml").write_text(CONFIG)
    return tmp_path / "loader.toml"


def shown(metrics: str, entry: dict[str, Any], *, token: str = "") -> dict[str, Any]:
    """What the page draws of a bad sample or an error."""
    request = urllib.request.Request(f"http://{metrics}/sample.json?id={entry['evidence']}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def corner(column: dict[str, Any]) -> list[int]:
    """The first pixel of its first picture."""
    return list(base64.b64decode(column["images"][0]["data"])[:3])


def test_the_page_has_samples_on_which_code_raised_as_they_came_to_it_or_says_why_not(
    of_bad_samples: Path, start_loader: Callable[..., Any]
) -> None:
    metrics = free_address()
    loader = start_loader(of_bad_samples, "--workers", "1", "--metrics-listen", metrics)
    with feedline.connect(loader.address, timeout_s=60) as connection:
        for dataset, rows in {"each": 11, "own": 9, "files": 3}.items():
            feed = connection.feed(dataset=dataset, batch_size=4, order="sequential")
            assert sum(batch.rows for batch in feed) == rows
        with pytest.raises(feedline.DataError, match="among these"):
            list(connection.feed(dataset="batch", batch_size=4, order="sequential"))

    page = json.loads(got(metrics, "/view.json"))
    bad = {(one["dataset"], one["samples"][0]): one for one in page["bad_samples"]}
    assert bad.keys() == {("each", 7), ("own", 3), ("own", 5), ("own", 9), ("files", 2)}

    each = shown(metrics, bad["each", 7])
    assert each["title"] == "sample 7, as it came to dataset 'each', transforms.0 (mine:checked)"
    assert corner(each["columns"][0]) == [7, 0, 0]
    held = shown(metrics, bad["own", 5])
    assert held["title"] == "It returned nothing; what the code held in its variables when it raised"
    assert [one["name"] for one in held["columns"]] == ["image in __getitem__"]
    assert corner(held["columns"][0]) == [5, 5, 5]
    returned = shown(metrics, bad["own", 9])
    assert (returned["title"], returned["columns"][0]["shape"]) == ("The sample as it was returned", [8, 16, 3])
    nothing = shown(metrics, bad["own", 3])
    assert nothing["columns"] == []
    assert "the code raised before it returned anything, and no variable held an array" in nothing["title"]
    assert bad["files", 2]["evidence"] == ""
    assert bad["files", 2]["why_none"] == "Nothing to show: no values were read of it, and the message says why."
    (failure, *_) = page["errors"]
    batch = shown(metrics, failure)
    assert "the batch of 4 samples, of which any may be the bad one, by its first ones" in batch["title"]
    assert [list(base64.b64decode(one["data"])[:1]) for one in batch["columns"][0]["images"]] == [[8], [9], [10], [11]]


def test_what_is_shown_of_a_bad_sample_is_for_who_may_read_its_dataset(
    of_bad_samples: Path, tmp_path: Path, start_loader: Callable[..., Any]
) -> None:
    tokens = tmp_path / "tokens.toml"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("own", "each")}
    tokens.write_text(
        "".join(f'[{name}]\nsha256 = "{digest}"\ndatasets = ["{name}"]\n' for name, digest in digests.items())
    )
    secret = tmp_path / "token"
    secret.write_text("each")
    metrics = free_address()
    loader = start_loader(of_bad_samples, "--workers", "1", "--metrics-listen", metrics, "--tokens", str(tokens))
    with feedline.connect(loader.address, timeout_s=60, token_file=secret) as connection:
        assert sum(batch.rows for batch in connection.feed(dataset="each", batch_size=4)) == 11
    request = urllib.request.Request(f"http://{metrics}/view.json", headers={"Authorization": "Bearer each"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        (bad,) = json.loads(answer.read())["bad_samples"]

    assert corner(shown(metrics, bad, token="each")["columns"][0]) == [7, 0, 0]
    for token, status in {"own": 404, "": 401}.items():
        with pytest.raises(urllib.error.HTTPError) as refused:
            shown(metrics, bad, token=token)
        assert refused.value.code == status
        refused.value.close()
