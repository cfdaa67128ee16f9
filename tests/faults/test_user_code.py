"""What your own code in a worker may do: it costs its own batches, and no other trainer, lane, stream or process."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import feedline
from feedline_wire.errors import TEXT_KEPT

StartLoader = Callable[..., Any]
Module = Callable[[str], Path]

LANES = {
    "shm": (),
    "tcp": ("--no-shm-lane",),
    "grpc": ("--no-shm-lane", "--no-tcp-lane"),
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """Write a module of the operator's where the loader looks for it: `module(source)` is what to serve."""
    monkeypatch.chdir(tmp_path)

    def write(source: str) -> Path:
        (tmp_path / "theirs.py").write_text(textwrap.dedent(source))
        return Path("theirs:Data")

    return write


def ids_of(loader: feedline.Loader, samples: range) -> list[int]:
    """What sample after sample holds, by requests of one each."""
    feed = loader.feed(order="sequential", batch_size=1, timeout_s=60)
    with feed.epoch(0, start=samples.start) as epoch:
        return [int(next(epoch)["x"][0]) for _ in samples]


LONG = """
    import numpy as np

    class Data:
        def __len__(self):
            return 32
        def __getitem__(self, i):
            if i == 13:
                raise ValueError("it begins" + "x" * (64 << 20) + "and ends")
            return {"x": np.int64(i)}
"""


@pytest.mark.parametrize("lane", LANES)
def test_an_exception_of_64_mb_arrives_by_its_ends_and_hurts_nobody(
    lane: str, module: Module, start_loader: StartLoader
) -> None:
    """It was `LoaderUnavailable`, stalled the trainer, and took the front to 417 MB."""
    loader = start_loader(module(LONG), "--workers", "1", *LANES[lane])
    front = psutil.Process(loader.process.pid)
    with feedline.connect(loader.address) as first, feedline.connect(loader.address) as second:
        assert ids_of(second, range(1)) == [0]
        before = front.memory_info().rss

        with pytest.raises(feedline.BadSample) as caught:
            ids_of(first, range(13, 14))

        text = str(caught.value)
        assert "ValueError: it begins" in text
        assert "characters are left out here" in text
        assert text.rstrip().endswith("and ends")
        assert len(text) < 5 * TEXT_KEPT
        assert caught.value.samples == (13,)
        assert ids_of(first, range(14, 32)) == list(range(14, 32))
        assert ids_of(second, range(13)) == list(range(13))
        assert front.memory_info().rss - before < 32 << 20


FORKS = """
    import os
    import numpy as np

    class Data:
        def __len__(self):
            return 400
        def __getitem__(self, i):
            if i % 50 == 7:
                os.fork()  # and both return
            return {"x": np.full(20_000, i)}
"""


@pytest.mark.parametrize("lane", LANES)
def test_code_that_forks_and_returns_twice_mixes_nothing_up(
    lane: str, module: Module, start_loader: StartLoader
) -> None:
    """Another trainer had four batches that were not those that it wanted, then nobody had any."""
    loader = start_loader(module(FORKS), "--workers", "2", *LANES[lane])
    with feedline.connect(loader.address) as one, feedline.connect(loader.address) as other:
        epochs = [
            one.epoch(0, order="sequential", batch_size=2, timeout_s=60),
            other.epoch(0, order="shuffle", seed=5, batch_size=3, timeout_s=60),
        ]
        seen: list[list[int]] = [[], []]
        for number, epoch in [(0, epochs[0]), (1, epochs[1])] * 100:
            batch = next(epoch)
            assert (batch["x"] == batch.ids[:, None]).all()
            seen[number] += batch.ids.tolist()

        assert seen[0] == list(range(200))
        assert len(set(seen[1])) == 300
        assert one.status().counters["workers_restarted"] == 0


ENDS_ITS_OWN = """
    import multiprocessing, subprocess, time
    import numpy as np

    class Data:
        def __len__(self):
            return 4
        def __getitem__(self, i):
            program = subprocess.Popen(["sleep", "1000"])
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
            process.start()
            for one in (program, process):
                one.terminate()
            process.join(20)
            return {"x": np.array([program.wait(20), process.exitcode])}
"""


def test_code_can_end_what_it_has_started(module: Module, start_loader: StartLoader) -> None:
    """Workers ignored SIGTERM, and what they started did so too: `terminate` ended nothing."""
    loader = start_loader(module(ENDS_ITS_OWN), "--workers", "1")
    with feedline.connect(loader.address) as connected:
        [batch] = connected.epoch(0, batch_size=4, timeout_s=100)

    assert batch["x"].tolist() == [[-15, -15]] * 4
