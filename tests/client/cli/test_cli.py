"""The command line: what it prints, which code it ends with, and that nothing outlives it."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

import feedline
from feedline import BadSample, connect
from feedline.cli import main
from feedline.cli.bench import Measured, endless, measure, needed
from feedline.cli.inspect import Seen, as_json, described, is_data
from feedline.connection.description import Description
from feedline.testing import FakeLoader, serve
from feedline_wire import loader_pb2 as pb
from feedline_wire.elementwise import OneHot, Scale
from feedline_wire.extras import pip_install
from feedline_wire.figures import ReplicaFigures
from feedline_wire.status import LoaderCounters, StreamCounters, read_status, to_messages
from feedline_wire.verdict import Verdict

NOBODY = "127.0.0.1:1"
"""Port 1 is reserved and refuses at once."""

DEMO_S = 280.0
"""The demo takes 22 CPU seconds, and took 80 s where ten other programs ran."""


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    """20 samples: x[i] is all i (float32, 2 x 3), y[i] = i; 16 for training, 4 for validation."""
    x = np.repeat(np.arange(20, dtype=np.float32), 6).reshape(20, 2, 3)
    columns = {"x": x, "y": np.arange(20)}
    with serve(columns, views={"train": range(16), "validation": range(16, 20)}, name="numbers") as running:
        yield running


# ---- inspect ----


@pytest.mark.parametrize(
    ("target", "exists", "expected"),
    [
        ("scans", True, True),
        ("scans", False, False),  # neither; the message names both
        ("./scans", False, True),
        ("..", True, True),
        ("/data/scans", False, True),
        ("~/scans", False, True),
        ("data/scans", False, True),
        ("loader.toml", False, True),
        ("my_classes:training_generator", False, True),
        ("my.package:training_generator", False, True),
        ("127.0.0.1:50051", False, False),
        ("loader:50051", False, False),
        ("loader:50051", True, True),  # a file of that name: a loader is dns:///loader:50051 then
        ("loader:99999", False, False),  # no port; the message says why
        ("loader-1:50051,loader-2:50051", False, False),
        ("dns:///loader:50051", False, False),
        ("unix:///run/loader", False, False),
        ("[::1]:50051", False, False),
    ],
)
def test_a_target_is_data_here_or_loaders(target: str, exists: bool, expected: bool) -> None:
    assert is_data(target, exists) == expected


def test_options_of_data_are_refused_for_loaders(loader: FakeLoader, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", loader.address, "--read"]) == 1

    assert "what is said of data (read) is for data here" in capsys.readouterr().err


def test_a_path_is_looked_at_by_the_server_with_the_options_as_they_are(
    tmp_path: Path, numbered_columns: Callable[..., Any]
) -> None:
    numbered_columns(tmp_path / "data", 8)

    done = _feedline("inspect", "--read", str(tmp_path / "data"), "--json")

    assert (done.returncode, json.loads(done.stdout)["read"]) == (0, 8)


def test_inspect_shows_what_is_served(loader: FakeLoader, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["inspect", loader.address])

    shown = capsys.readouterr().out
    assert code == 0
    for text in (
        f"loader at {loader.address}: serving",
        "dataset numbers: 20 samples",
        "train 16, validation 4",
        "x float32(2, 3), y int64()",
        "(x, y)",
        "shuffle",
    ):
        assert text in shown


def squeezed(shown: str) -> str:
    """The same without what aligns it, which is as wide as the longest counter's name."""
    return re.sub(" +", " ", shown)


def test_inspect_shows_what_a_dataset_does_beside_handing_out_rows(capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"x": np.zeros((4, 3), np.uint8), "y": np.zeros(4, np.int64)}
    late = [("x", Scale(divide_by=255)), ("y", OneHot(5))]
    names = {"y": ["cats", "dogs"]}
    with (
        serve(columns, deferred=late, categories=names) as finished,
        serve({"x": [np.zeros((2, 3))]}, kind="stream") as stream,
    ):
        main(["inspect", f"{finished.address},{stream.address}"])
        in_words = capsys.readouterr().out
        main(["inspect", finished.address, "--json"])
        as_json = json.loads(capsys.readouterr().out)

    for text in (
        "  columns      x float32(3), y float32(5)\n",
        "  travel as    x uint8(3), y int64()\n",
        "  done late    x: scale divide_by=255.0; y: one_hot classes=5\n",
        "  categories   y: 0 = cats, 1 = dogs\n",
        "  orders       shuffle, sequential, replacement, blocks\n",
        "dataset fake: 1 batches an epoch, a stream: nothing can be asked for twice\n",
        "lanes grpc\n",
    ):
        assert text in in_words or text in squeezed(in_words)
    assert as_json["lanes"] == ["grpc"]
    assert as_json["datasets"]["fake"]["categories"] == names
    assert as_json["datasets"]["fake"]["late"][1] == {
        "column": "y",
        "operation": "one_hot",
        "classes": 5,
        "dtype": "float32",
    }
    assert (as_json["datasets"]["fake"]["batched"], as_json["datasets"]["fake"]["stream"]) == (False, False)


def test_inspect_says_what_a_loader_is_short_of_and_which_trainer_does_not_read() -> None:
    description = Description("1", "r", {}, 1 << 20, 64)
    stream = StreamCounters(waiting=3, waited_s=9.4, unread_s=12.0)
    trainer = pb.Trainer(peer="ipv4:10.0.0.7:9", counters=to_messages(stream))
    counters = to_messages(LoaderCounters(waited_s=9.4, reclaimed=4, arena_lent=3_000_000))
    status = read_status(pb.StatusReply(short_of="memory", counters=counters, trainers=[trainer]))

    shown = squeezed(described(Seen("loader:50051", description, status)))

    assert "short of memory: trainers wait for this loader\n" in shown
    assert "\nwaited_s 9.4 s that the oldest key has waited for this loader\n" in shown
    assert "\nreclaimed 4 batches dropped unsent for want of room, to be assembled again\n" in shown
    assert "\narena_lent 3.0 MB of it lent to batches on their way\n" in shown
    assert shown.endswith(
        " ipv4:10.0.0.7:9: 3 keys wanted, not begun; 9.4 s that its oldest key has waited for this loader; "
        "12.0 s since it last read, while batches wait for it"
    )


def test_inspect_shows_a_counter_that_only_a_newer_loader_has() -> None:
    newer = pb.Counter(name="engines", whole=3, unit="engines", meaning="warming up")
    status = read_status(pb.StatusReply(counters=[newer]))
    seen = Seen("loader:50051", Description("1", "r", {}, 1 << 20, 64), status)

    assert "\nengines   3 engines warming up\n" in described(seen)
    assert as_json(seen)["status"] == {"draining": False, "short_of": "", "engines": 3, "trainers": []}


def test_the_keys_and_types_of_a_status_as_json_are_those_that_scripts_know() -> None:
    status = read_status(
        pb.StatusReply(
            counters=to_messages(LoaderCounters()), trainers=[pb.Trainer(counters=to_messages(StreamCounters()))]
        )
    )

    found = json.loads(json.dumps(as_json(Seen("loader:50051", Description("1", "r", {}, 1, 1), status))["status"]))

    (trainer,) = found.pop("trainers")
    assert {name: type(value).__name__ for name, value in found.items()}.items() >= {
        "draining": "bool",
        "uptime_s": "float",
        "workers": "int",
        "workers_busy": "int",
        "workers_restarted": "int",
        "batches": "int",
        "bytes": "int",
        "failures": "int",
        "arena_bytes": "int",
        "arena_lent": "int",
        "arena_kept": "int",
        "shared": "int",
        "scattered": "int",
        "reclaimed": "int",
        "waited_s": "float",
        "short_of": "str",
        "assembling_s": "float",
    }.items()
    assert {name: type(value).__name__ for name, value in trainer.items()} == {
        "peer": "str",
        "waiting": "int",
        "assembling": "int",
        "ready": "int",
        "batches": "int",
        "bytes": "int",
        "waited_s": "float",
        "unread_s": "float",
    }


def test_inspect_as_json_is_one_object_a_loader(loader: FakeLoader, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["inspect", loader.address, "--json"])

    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert code == 0
    assert found["address"] == loader.address
    dataset = found["datasets"]["numbers"]
    assert dataset["views"] == {"train": 16, "validation": 4}
    assert dataset["columns"][0] == {"name": "x", "dtype": "float32", "shape": [2, 3]}
    assert dataset["structure"] == ["x", "y"]
    assert found["status"]["draining"] is False


def test_a_loader_that_does_not_answer_hides_nothing_of_the_others(
    loader: FakeLoader, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["inspect", f"{NOBODY},{loader.address}", "--timeout-s", "5"])

    shown = capsys.readouterr()
    assert code == 1
    assert "dataset numbers" in shown.out
    assert NOBODY in shown.err


def test_loaders_that_serve_different_data_are_told_apart(
    loader: FakeLoader, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trainer can use only one of them, and would say so much later."""
    with serve({"x": np.zeros(20)}, name="numbers", fingerprint=b"\x02") as other:
        code = main(["inspect", f"{loader.address},{other.address}"])

    shown = capsys.readouterr().err
    assert code == 1
    assert shown.startswith("feedline inspect: dataset 'numbers' has the fingerprint ")
    assert f" at {loader.address} and 02 at {other.address}: serve the same" in shown


def test_loaders_that_serve_the_same_are_fine(capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"x": np.zeros(20)}
    with serve(columns) as one, serve(columns) as another:
        code = main(["inspect", f"{one.address},{another.address}"])

    assert (code, capsys.readouterr().err) == (0, "")


# ---- peek ----


def test_what_is_neither_here_nor_an_address_is_told_as_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    code = main(["inspect", "scans"])

    assert code == 1
    assert capsys.readouterr().err == (
        "feedline inspect: scans: there is no such file or folder, and it is no loader's address, "
        "such as loader:50051\n"
    )


def test_peek_shows_ready_batches_and_bad_samples(capsys: pytest.CaptureFixture[str]) -> None:
    with serve({"x": [np.zeros((3, 2)), np.ones((5, 2))]}, kind="batches") as ready:
        assert main(["peek", ready.address, "--order", "sequential", "--start", "1"]) == 0
    with serve({"x": np.arange(8)}, bad=[2]) as spoilt:
        assert main(["peek", spoilt.address, "--order", "sequential", "--batch-size", "4"]) == 0

    shown = capsys.readouterr().out
    assert "batch      1 of epoch 0: 5 samples from position 1 on\n" in shown
    assert "batch      0 of epoch 0: 3 samples from position 0 on, 1 bad ones left out or replaced\n" in shown
    assert "bad        2\n" in shown


def test_peek_shows_one_batch_and_asks_for_no_other(loader: FakeLoader, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([
        "peek", loader.address, "--view", "validation", "--order", "sequential", "--batch-size", "3", "--start", "1",
    ])  # fmt: skip

    shown = capsys.readouterr().out
    assert code == 0
    assert "batch      1 of epoch 0: 1 samples from position 3 on" in shown
    assert "structure  (x, y)" in shown
    assert "ids        19" in shown
    assert "19 19 19 19 19 19" in shown
    assert len(loader.requests) == 1


def test_of_a_large_array_peek_shows_least_greatest_and_mean(
    loader: FakeLoader, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["peek", loader.address, "--order", "sequential", "--batch-size", "5"])

    assert "min 0, max 4, mean 2" in capsys.readouterr().out


def test_values_that_are_no_numbers_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Float16 besides: its sum would overflow."""
    x = np.full((2, 8, 8), 60_000, np.float16)
    x[0, 0, :3] = np.nan, np.inf, -np.inf
    with serve({"x": x}) as running:
        main(["peek", running.address, "--batch-size", "2"])

    assert "min 60000, max 60000, mean 6e+04, 3 not finite" in capsys.readouterr().out


def test_peek_past_the_end_says_how_many_batches_there_are(
    loader: FakeLoader, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["peek", loader.address, "--batch-size", "8", "--start", "2"])

    assert code == 1
    assert "has 2 steps" in capsys.readouterr().err


def test_peek_shows_the_batch_that_a_training_saw_also_from_another_loader(
    loader: FakeLoader, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(loader.address) as numbers:
        seen = list(numbers.epoch(3, seed=7, batch_size=5))[2]
    loader.stop()
    loader.start()

    assert main(["peek", loader.address, "--batch-key", seen.key[:-24]]) == 0  # the first digits are enough
    assert f"key        {seen.key}\n" in capsys.readouterr().out
    assert main(["peek", loader.address, "--batch-key", seen.key]) == 0
    shown = capsys.readouterr().out
    assert f"key        {seen.key}\n" in shown
    assert f"ids        {' '.join(map(str, seen.ids))}\n" in shown


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--step", "3"], "--step 3: counts from a --state; from an epoch's beginning it is --start"),
        (["--state", "s", "--batch-key", "k"], "--batch-key and --state: each says which batch; give one of them"),
        (["--rank", "2", "--world", "2"], "--rank 2: of --world 2 ranks there are 0..1"),
    ],
)
def test_peek_passes_over_no_option(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peek", "127.0.0.1:1", *words]) == 1

    assert capsys.readouterr().err == f"feedline peek: {reason}\n"


def test_peek_saves_files_nowhere_but_in_its_folder(tmp_path: Path) -> None:
    """Names of columns are a loader's: one wrote pictures beside the folder, another ended in a traceback."""
    columns = {"../up": np.zeros((4, 8, 8, 3), np.uint8), "x/y": np.zeros((4, 3, 3))}
    with serve(columns) as running:
        assert main(["peek", running.address, "--batch-size", "1", "--save", str(tmp_path / "out" / "in")]) == 0

    assert sorted(file.name for file in (tmp_path / "out" / "in").iterdir()) == [
        "..%2Fup-0000.png", "batch.csv", "x%2Fy.npy",
    ]  # fmt: skip
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["in"]


def test_peek_says_that_it_cannot_save_where_a_file_is(
    tmp_path: Path, loader: FakeLoader, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    code = main(["peek", loader.address, "--batch-size", "1", "--save", str(tmp_path / "file")])

    assert code == 1
    assert f"feedline peek: --save {tmp_path}/file: File exists; name a folder to write to" in capsys.readouterr().err


def test_peek_shows_the_batch_of_a_rank_after_a_saved_state_and_asks_how_large_it_was(
    tmp_path: Path, loader: FakeLoader, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "state.json"
    with feedline.connect(loader.address) as connection:
        feed = connection.feed(batch_size=2, rank=1, world=2)
        batches = iter(feed)
        next(batches)
        file.write_text(json.dumps(feed.state_dict()))
        next(batches)
        seen = next(batches)

    asked = main(["peek", loader.address, "--state", str(file), "--step", "1"]), capsys.readouterr().err
    words = ["--batch-size", "2", "--rank", "1", "--world", "2"]
    shown = main(["peek", loader.address, "--state", str(file), "--step", "1", *words]), capsys.readouterr().out

    assert asked[0] == 1
    assert "say the training's --batch-size (and its --rank and --world, if it has several)" in asked[1]
    assert shown[0] == 0
    assert seen.key in shown[1]


def test_peek_shows_a_batch_after_a_saved_state(
    loader: FakeLoader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(loader.address) as numbers:
        feed = numbers.feed(batch_size=3, seed=7)
        batches = iter(feed)
        next(batches)
        (tmp_path / "state.json").write_text(json.dumps(feed.state_dict()))
        after = list(batches)

    command = ["peek", loader.address, "--batch-size", "3", "--state", str(tmp_path / "state.json"), "--step"]
    for step in (0, 3):
        assert main([*command, str(step)]) == 0
        assert f"key        {after[step].key}\n" in capsys.readouterr().out


def test_a_state_that_is_none_is_named(loader: FakeLoader, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state.json").write_text("[]")

    for file in ("state.json", "none.json"):
        assert main(["peek", loader.address, "--state", str(tmp_path / file)]) == 1
        assert "wanted the JSON of a state_dict()" in capsys.readouterr().err


def test_a_batch_of_a_stream_cannot_be_seen_again(capsys: pytest.CaptureFixture[str]) -> None:
    with serve({"x": [np.zeros((3, 2)), np.ones((5, 2))]}, kind="stream") as stream:
        with connect(stream.address) as loader:
            key = next(iter(loader.feed())).key
        assert main(["peek", stream.address, "--batch-key", key]) == 1

    assert "is a stream: whatever its code yields next" in capsys.readouterr().err


def test_peek_saves_pictures_a_table_and_other_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (6, 9, 7, 3), np.uint8)
    columns = {"x": pictures, "grey": pictures[..., 0], "z": np.ones((6, 2), np.float32), "y": np.arange(6) / 4}
    with serve(columns) as running:
        assert (
            main(["peek", running.address, "--order", "sequential", "--batch-size", "4", "--save", str(tmp_path)]) == 0
        )

    cv2 = pytest.importorskip("cv2")
    assert "saved      10 files" in capsys.readouterr().out
    for row in range(4):
        found = cv2.imread(str(tmp_path / f"x-{row:04}.png"), cv2.IMREAD_COLOR)[..., ::-1]
        assert (found == pictures[row]).all()
        assert (cv2.imread(str(tmp_path / f"grey-{row:04}.png"), cv2.IMREAD_GRAYSCALE) == pictures[row, ..., 0]).all()
    assert (tmp_path / "batch.csv").read_text().splitlines() == [
        "row,id,y",
        "0,0,0.0",
        "1,1,0.25",
        "2,2,0.5",
        "3,3,0.75",
    ]
    assert (np.load(tmp_path / "z.npy") == 1).all()


# ---- bench ----


def test_bench_reports_what_arrived(loader: FakeLoader, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["bench", loader.address, "--batch-size", "16", "--seconds", "0.2", "--json"])

    measured = json.loads(capsys.readouterr().out)
    assert code == 0
    assert measured["batches"] >= 1
    assert measured["samples"] == 16 * measured["batches"]
    assert measured["nbytes"] == 16 * (24 + 8 + 8) * measured["batches"]  # x, y and the ids
    assert 0 <= measured["waited_share"] <= 1
    assert measured["gigabytes_per_s"] > 0


def test_bench_goes_on_over_the_ends_of_epochs(loader: FakeLoader, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", loader.address, "--batch-size", "16", "--seconds", "0.2"])

    assert "GB/s" in capsys.readouterr().out
    assert {key.epoch for key in loader.requests} >= {0, 1, 2}


REPLICA = ReplicaFigures("a:1", 10.0, 2, 1 << 30, batches=100, assembling_s=6.0)


@pytest.mark.parametrize(
    ("step_s", "replicas", "sentence"),
    [
        (0.1, [REPLICA], "a batch takes a worker 60 ms, so 0.6 workers feed it; there are 2"),
        (0.03, [REPLICA], "a batch takes a worker 60 ms, so 2.0 workers feed it; there are 2"),
        (
            0.02,
            [REPLICA],
            "a batch takes a worker 60 ms, so 3.0 workers feed it; there are 2: 1 more, or 1 more replica",
        ),
        (
            0.005,
            [REPLICA, replace(REPLICA, address="b:1")],
            "a batch takes a worker 60 ms, so 12.0 workers feed it; there are 4: 8 more, or 4 more replicas",
        ),
    ],
)
def test_bench_says_how_many_workers_feed_such_steps(
    step_s: float, replicas: list[ReplicaFigures], sentence: str
) -> None:
    measured = Measured(0.1, 10.0, 100, 1600, 10, 2.0, 7.5, 1.0)

    need = needed(measured, step_s, Verdict("workers", 0.2, "It waited."), replicas)

    assert need.sentence == sentence
    assert need.utilisation == 0.75


def test_bench_with_steps_says_why_it_waits(loader: FakeLoader, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", loader.address, "--batch-size", "16", "--seconds", "0.2", "--step-ms", "20"])
    words = capsys.readouterr().out
    main(["bench", loader.address, "--batch-size", "16", "--seconds", "0.2", "--step-ms", "20", "--json"])
    values = json.loads(capsys.readouterr().out)

    assert "computed   " in words
    assert "workers    a batch takes a worker 0 ms" in words
    assert 0 < values["utilisation"] <= 1
    assert values["verdict"]


@pytest.mark.parametrize(("seconds", "passed_over"), [(400.0, 1 + 32), (40.0, 1 + 10)])
def test_bench_does_not_count_what_comes_before_the_reader_reads_far_ahead(
    monkeypatch: pytest.MonkeyPatch, seconds: float, passed_over: int
) -> None:
    """By a clock on which nothing takes time but steps, of a second: 32 batches, or a quarter of the time."""
    now = [0.0]
    clock = SimpleNamespace(
        perf_counter=lambda: now[0], process_time=lambda: 0.0, sleep=lambda s: now.__setitem__(0, now[0] + s)
    )
    monkeypatch.setattr("feedline.cli.bench.time", clock)
    taken: list[int] = []

    def batches() -> Iterator[Any]:
        for number in itertools.count():
            taken.append(number)
            yield SimpleNamespace(rows=1, ids=np.zeros(1), columns={})

    measured = measure(batches(), seconds, step_s=1.0, show=lambda *_: None)

    assert len(taken) - measured.batches == passed_over
    assert measured.seconds == measured.computed_s == seconds


def test_bench_shows_seconds_and_the_rate(loader: FakeLoader) -> None:
    shown: list[tuple[float, float, str]] = []

    with connect(loader.address) as numbers:
        batches = endless(numbers.feed(batch_size=16), 0)
        measure(batches, 1.0, step_s=0.6, show=lambda done, whole, rate: shown.append((done, whole, rate())))

    seconds = [done for done, _, _ in shown]
    assert all(0.6 * (step + 1) <= done for step, done in enumerate(seconds))
    assert all(done < 1.0 for done in seconds[:-1])
    assert seconds[-1] >= 1.0
    assert {whole for _, whole, _ in shown} == {1.0}
    assert all(rate.endswith("B/s") for _, _, rate in shown)


# ---- failures ----


@pytest.mark.parametrize("command", ["inspect", "peek", "bench"])
def test_nobody_listening_is_one_message_and_code_1(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([command, NOBODY, "--timeout-s", "0.5"])

    shown = capsys.readouterr()
    assert code == 1
    assert shown.out == ""
    assert shown.err.startswith(f"feedline {command}: ")
    assert NOBODY in shown.err
    assert "Traceback" not in shown.err


def test_what_the_dataset_cannot_give_is_said(loader: FakeLoader, capsys: pytest.CaptureFixture[str]) -> None:
    loader.fail(lambda key: BadSample("sample 7 is no image", samples=[7]))

    code = main(["peek", loader.address])

    assert code == 1
    assert "feedline peek: sample 7 is no image" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [[], ["fetch"], ["peek"], ["peek", "a:1", "--batch-size", "0"], ["bench", "a:1", "--seconds", "0"]],
    ids=" ".join,
)
def test_wrong_usage_is_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)

    assert ended.value.code == 2
    assert "usage: feedline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["insepct", "a:1"], "feedline: error: there is no command insepct; did you mean inspect?"),
        (["--versoin"], "feedline: error: there is no command --versoin; did you mean --version?"),
        (
            ["peek", "a:1", "--batch-sise", "3"],
            "peek: error: there is no option --batch-sise; did you mean --batch-size?",
        ),
        (["serve", ".", "--worker", "3"], "serve: error: there is no option --worker; did you mean --workers?"),
        (["convert", "a", "b", "--skipbad"], "convert: error: there is no option --skipbad; did you mean --skip-bad?"),
    ],
)
def test_an_unknown_command_or_option_names_the_nearest(words: list[str], message: str) -> None:
    done = _feedline(*words)

    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_mistyped_option_does_not_repeat_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    """It may be a token, and the message may go to a log."""
    for words in (["--token", "secret"], ["--token=secret"]):
        with pytest.raises(SystemExit):
            main(["peek", "a:1", *words])

    shown = capsys.readouterr().err
    assert "there is no option --token; did you mean --token-file?" in shown
    assert "secret" not in shown


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0

    assert capsys.readouterr().out == f"feedline {feedline.__version__}\n"


def test_help_lists_every_command_in_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    shown = capsys.readouterr().out
    groups = re.findall(r"^([a-z ]+):\n((?:  .+\n)+)", shown.partition("a first tour")[0], re.MULTILINE)
    assert [(title, [line.split()[0] for line in lines.splitlines()]) for title, lines in groups] == [
        ("try it", ["demo", "demo-train"]),
        ("serve data", ["serve", "reload", "convert", "token", "autoscale"]),
        ("look at data and loaders", ["inspect", "peek"]),
        ("check and measure a running loader", ["top", "why", "verify", "bench"]),
    ]


@pytest.mark.parametrize("command", ["inspect", "peek", "bench", "demo", "demo-train", "serve"])
def test_help_has_examples_and_exit_codes(command: str) -> None:
    done = _feedline(command, "--help")

    assert done.returncode == 0
    assert "examples:\n  feedline " in done.stdout
    assert "exit codes: 0 " in done.stdout


def test_ctrl_c_is_quiet(loader: FakeLoader) -> None:
    with _started("bench", loader.address, "--batch-size", "16", "--seconds", "60") as bench:
        loader.wait_until(lambda seen: seen.answered > 0, timeout_s=60)
        bench.send_signal(signal.SIGINT)
        out, err = bench.communicate(timeout=20)

    assert (bench.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("command", ["inspect", "peek"])
def test_a_reader_that_stops_reading_is_no_traceback(command: str, loader: FakeLoader) -> None:
    with _started(command, loader.address) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        err = running.stderr.read()
        code = running.wait(20)

    assert (code, err) == (1, "")


# ---- serve ----


def test_serve_becomes_the_server(tmp_path: Path, numbered_columns: Callable[..., Any]) -> None:
    """Same process id: signals and supervisors reach the loader itself."""
    numbered_columns(tmp_path / "data", 8)

    with _started("serve", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--log-format", "json") as server:
        event: dict[str, Any] = {}
        while event.get("event") != "serving":  # a slow start says first what it is at
            event = json.loads(_line(server.stderr))
        assert main(["inspect", event["address"]]) == 0
        server.terminate()
        server.communicate(timeout=20)

    assert event["pid"] == server.pid
    assert server.returncode == 0


def test_serve_without_the_server_extra_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "structlog", None)  # what an import of something that is not there finds

    code = main(["serve", "."])

    assert code == 1
    assert pip_install("server") in capsys.readouterr().err


# ---- demo ----


def test_the_demo_without_its_extra_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "keras", None)

    code = main(["demo"])

    assert code == 1
    assert pip_install("demo") in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.keras
@pytest.mark.timeout(DEMO_S + 20)
def test_the_demo_trains_to_95_percent_and_leaves_nothing(tmp_path: Path) -> None:
    with _started("demo", TMPDIR=tmp_path) as running:
        out, err = running.communicate(timeout=DEMO_S)

    assert running.returncode == 0, err
    report = out.splitlines()[-3:]
    assert report[0].startswith("validation accuracy 9")
    assert report[1].endswith("samples/s")
    assert report[2].startswith("the trainer waited for data ")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def short_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """A demo of one epoch that keeps its digits: their folder, its exit code and what it wrote."""
    folder = tmp_path_factory.mktemp("demo") / "digits"
    with _started("demo", "--epochs", "1", "--folder", str(folder), VIRTUAL_ENV="") as running:
        out, err = running.communicate(timeout=DEMO_S)
    return folder, running.returncode, out, err


@pytest.mark.slow
@pytest.mark.keras
@pytest.mark.timeout(DEMO_S + 20)
def test_the_demo_keeps_its_digits_in_a_folder_that_is_named_and_says_how_to_serve_them(
    short_demo: tuple[Path, int, str, str],
) -> None:
    folder, _, out, _ = short_demo

    assert out.splitlines()[-1] == (
        f"== the digits are kept in {folder}; serve them yourself with: "
        f"source {sys.prefix}/bin/activate; feedline serve {folder}"
    )
    assert np.load(folder / "validation" / "y.npy").shape == (300,)


@pytest.mark.slow
@pytest.mark.keras
@pytest.mark.timeout(DEMO_S + 20)
def test_an_accuracy_below_95_percent_is_a_failure(short_demo: tuple[Path, int, str, str]) -> None:
    _, code, _, err = short_demo

    assert code == 1
    assert "less than 95.0 %" in err


@pytest.mark.keras
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_however_the_demo_is_ended_its_processes_end_with_it(number: signal.Signals, code: int, tmp_path: Path) -> None:
    with _started("demo", TMPDIR=tmp_path) as running:
        while "training from it" not in _line(running.stdout):
            pass
        family = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(number)
        running.communicate(timeout=20)

    _, left = psutil.wait_procs(family, timeout=20)
    assert len(family) >= 2  # the loader and its workers, perhaps the trainer
    assert left == []
    assert running.returncode == code
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.keras
@pytest.mark.slow
def test_the_demo_ends_at_once_while_its_loader_starts(tmp_path: Path) -> None:
    """A timer that watches the start kept the process for a minute."""
    with _started("demo", TMPDIR=tmp_path) as running:
        while "starting a loader" not in _line(running.stdout):
            pass
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=30)

    assert running.returncode == 143
    assert list(tmp_path.iterdir()) == []


# ---- arrange ----


@contextmanager
def _started(*words: str, **environment: object) -> Iterator["subprocess.Popen[str]"]:
    """`feedline WORDS …` as a process, which does not outlive a test that fails."""
    with subprocess.Popen(
        [sys.executable, "-m", "feedline", *words], text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {name: str(value) for name, value in environment.items()},
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def _feedline(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "feedline", *words], text=True, capture_output=True, check=False)


def _line(stream: Any) -> str:
    line: str = stream.readline()
    assert line, "the process ended before it printed what was waited for"
    return line
