"""A target that is data on this host: a loader of the process's own, shared, and gone with the last that uses it."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from processes import children

import feedline
from feedline.local import loaders

SAMPLES = Counter(range(101))

GONE_S = 20.0


def started() -> list[psutil.Process]:
    """The loaders that this process has started."""
    return children(lambda words: "--until-stdin-ends" in words)


def until(holds: Callable[[], bool], claim: str) -> None:
    deadline = time.monotonic() + GONE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {GONE_S} s: {claim}"
        time.sleep(0.02)  # the end of a process that is nobody's child wakes nobody


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    until(lambda: not started(), "no loader is left")


def ids(epoch: feedline.Epoch) -> Counter[int]:
    return Counter(sample for batch in epoch for sample in batch.ids.tolist())


def test_equal_data_is_served_by_one_loader_that_ends_with_its_last_user(hundred_and_one: Path) -> None:
    with feedline.connect(hundred_and_one) as one:
        two = feedline.connect(f"{hundred_and_one}/")
        assert len(started()) == 1
        [process] = started()
        family = process.children(recursive=True)

        assert ids(one.epoch(0)) == ids(two.epoch(1)) == SAMPLES
        two.close()
        two.close()
        assert ids(one.epoch(2)) == SAMPLES

    assert not process.is_running()
    assert len(family) >= 1
    _, left = psutil.wait_procs(family, timeout=GONE_S)
    assert left == []


def test_with_serve_a_loader_lasts_as_long_as_the_context(hundred_and_one: Path) -> None:
    with feedline.serve(hundred_and_one, "--no-shm-lane", workers=1) as target:
        with feedline.connect(target) as loader:
            assert loader.status().counters["workers"] == 1
            assert ids(loader.epoch(0)) == SAMPLES
        assert len(started()) == 1

    assert started() == []


def test_workers_that_are_named_among_the_options_are_those(hundred_and_one: Path) -> None:
    with feedline.serve(hundred_and_one, "--workers", "3") as target, feedline.connect(target) as loader:
        assert loader.status().counters["workers"] == 3


def test_a_loader_that_is_never_closed_is_let_go_of(hundred_and_one: Path) -> None:
    loader = feedline.connect(hundred_and_one)
    assert loader.replicas == 1
    assert len(started()) == 1

    del loader
    gc.collect()

    until(lambda: not started(), "its loader has ended")


def test_one_that_is_killed_is_started_again_and_every_sample_comes_once(hundred_and_one: Path) -> None:
    with feedline.connect(hundred_and_one) as loader:
        found: Counter[int] = Counter()
        for number, batch in enumerate(loader.epoch(0, batch_size=5, prefetch=1)):
            found.update(batch.ids.tolist())
            if number == 4:
                [process] = started()
                process.kill()

        assert found == SAMPLES


def test_what_a_loader_says_of_data_that_it_cannot_serve_is_the_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("no data here")

    words = r"the loader of .* ended with code 1 before it served: feedline serve: .*notes\.txt"
    with pytest.raises(feedline.LoaderUnavailable, match=words):
        feedline.connect(tmp_path)

    assert capfd.readouterr().err == ""


def test_a_loader_that_does_well_logs_nothing(hundred_and_one: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with feedline.connect(hundred_and_one) as loader:
        assert loader.dataset().samples == 101

    assert capfd.readouterr().err == ""


PROGRAM = """\
import sys
import feedline
loader = feedline.connect(sys.argv[1])
print(sum(len(batch.ids) for batch in loader.epoch(0)), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_started_it(hundred_and_one: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM, str(hundred_and_one)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "101\n"
        family = psutil.Process(program.pid).children(recursive=True)
        program.send_signal(number)

    _, left = psutil.wait_procs(family, timeout=GONE_S)
    assert len(family) >= 2  # the loader and its workers
    assert left == []


def test_a_module_is_found_beside_the_script_that_names_it(tmp_path: Path) -> None:
    script = tmp_path / "here" / "train.py"
    script.parent.mkdir()
    (script.parent / "squares.py").write_text(
        "class Squares:\n"
        "    def __len__(self): return 20\n"
        "    def __getitem__(self, i): return float(i * i), i\n"
        "data = Squares()\n"
    )
    script.write_text(
        "import feedline\n"
        "with feedline.connect('squares:data') as loader:\n"
        "    print(sorted(y for _, ys in loader.epoch(0, batch_size=6) for y in ys.tolist()))\n"
    )

    done = subprocess.run(
        [sys.executable, str(script)],
        cwd="/",
        env=os.environ,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=100,
    )

    assert done.stdout == f"{list(range(20))}\n"


def test_a_forked_process_has_loaders_of_its_own_and_ends_none_of_its_parents(hundred_and_one: Path) -> None:
    use = loaders.acquire(hundred_and_one)
    try:
        child = os.fork()
        if not child:  # in the child
            use.release()
            os._exit(0)
        os.waitpid(child, 0)

        assert len(started()) == 1
        with feedline.connect(hundred_and_one) as loader:
            assert ids(loader.epoch(0)) == SAMPLES
    finally:
        use.release()


def test_a_folders_own_number_of_workers_comes_first(hundred_and_one: Path, tmp_path: Path) -> None:
    (tmp_path / "loader.toml").write_text(f'workers = 3\n[datasets.numbered]\npath = "{hundred_and_one}"\n')

    with feedline.connect(tmp_path) as loader:
        assert loader.status().counters["workers"] == 3


@pytest.mark.keras
def test_keras_trains_from_a_folder(hundred_and_one: Path) -> None:
    sequence = feedline.RemoteSequence(hundred_and_one, batch_size=20)
    try:
        assert len(sequence) == 6
        assert sequence[0][1].tolist() == list(range(20))
    finally:
        sequence.close()
