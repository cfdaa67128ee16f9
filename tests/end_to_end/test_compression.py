"""On a thin line batches come compressed, and are the same bytes (G1, G2); not where the line is encrypted or a side
says no."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from ports import free_port
from proxy import Proxy

import feedline
from feedline_wire import loader_pb2 as pb
from feedline_wire import rpc, versions

pytest.importorskip("numcodecs", reason="the extra `compression` is not installed")

SAMPLES = 256
NUMBERS = 16_384
"""A sample has 64 KiB, and the view 16 MiB: several times what the buffers of a connection hide."""

THIN = 4e6
"""Bytes a second: a view takes 4 s as it is, in which the line has been seen. On a busy host nothing is slower."""

HELD_NBYTES = 256 << 10
"""By the line. One that took everything at once would hold nobody up."""

MOST_EPOCHS = 20
"""Until it must have begun: a busy host takes its time."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, numbered_columns: Callable[..., dict[str, np.ndarray]]) -> Path:
    """Numbered samples, each of one number many times."""
    place = tmp_path_factory.mktemp("thin") / "numbered"
    numbered_columns(place, SAMPLES, (NUMBERS,))
    return place


@pytest.fixture
def behind_a_line(folder: Path, start_loader: Callable[..., Any]) -> Iterator[Callable[..., str]]:
    """Start a loader with these arguments behind a line of THIN for gRPC and the lane; its address."""
    with ExitStack() as running:

        def start(*arguments: str, host: str = "127.0.0.2") -> str:
            port, tcp_port = (free_port("127.0.0.1", host) for _ in range(2))
            listens = ("--listen", f"127.0.0.1:{port}", "--tcp-port", str(tcp_port))
            start_loader(folder, "--no-shm-lane", *listens, *arguments)
            for each in (port, tcp_port):
                line = Proxy(f"127.0.0.1:{each}", address=f"{host}:{each}", holds_nbytes=HELD_NBYTES)
                running.enter_context(line).limit(THIN)
            return f"{host}:{port}"

        yield start


def read(loader: feedline.Loader, epoch: int) -> None:
    """An epoch, every byte of which is looked at."""
    seen: Counter[int] = Counter()
    for batch in loader.epoch(epoch, batch_size=4, seed=1, prefetch=64):
        seen.update(batch.ids.tolist())
        assert (batch["x"] == batch.ids.reshape(-1, 1)).all()
    assert seen == Counter(range(SAMPLES))


def compressed(loader: feedline.Loader) -> tuple[int, int]:
    counters = loader.status().counters
    return int(counters["bytes_compressed"]), int(counters["bytes_compressed_to"])


@pytest.mark.parametrize("lane", ["tcp", "grpc", "sealed"])
def test_on_a_thin_line_batches_are_compressed_and_hold_what_they_should(
    behind_a_line: Callable[..., str], authority: Any, lane: str
) -> None:
    trainer: dict[str, Any] = {"compression": "auto"}
    arguments = ["--no-tcp-lane"] if lane == "grpc" else []
    if lane == "sealed":
        trainer = {"ca": authority.file, "compression": "encrypted"}
        arguments = [*authority.issue("loader", "127.0.0.2").arguments, "--compression", "encrypted"]
    address = behind_a_line(*arguments)

    with feedline.connect(address, **trainer) as loader:
        epoch = 0
        while not compressed(loader)[0]:
            read(loader, epoch)
            epoch += 1
            assert epoch < MOST_EPOCHS
        nbytes, to_nbytes = compressed(loader)
        assert to_nbytes < nbytes / 5
        assert loader.stats.replicas[0].lane == lane


@pytest.mark.parametrize(
    ("said", "is_encrypted", "compresses"),
    [("auto", False, True), ("off", False, False), ("auto", True, False), ("encrypted", True, True)],
)
def test_a_loader_says_whether_it_compresses(
    start_loader: Callable[..., Any], folder: Path, authority: Any, said: str, is_encrypted: bool, compresses: bool
) -> None:
    pair = authority.issue("loader", "127.0.0.1").arguments if is_encrypted else []
    address = start_loader(folder, "--workers", "1", "--compression", said, *pair).address
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
    with grpc.secure_channel(address, credentials) if is_encrypted else grpc.insecure_channel(address) as channel:
        describe = channel.unary_unary(rpc.DESCRIBE, None, pb.Description.FromString)

        description = describe(b"", timeout=30)

    assert (versions.COMPRESSION in description.features) == compresses


def test_a_trainer_that_says_nothing_has_batches_as_they_are(behind_a_line: Callable[..., str]) -> None:
    with feedline.connect(behind_a_line()) as loader:
        read(loader, 0)
        assert compressed(loader) == (0, 0)


def test_a_word_that_is_none_is_refused_before_anything_is_connected() -> None:
    with pytest.raises(feedline.InvalidRequest, match="compression is 'yes'; wanted one of: auto, off, encrypted"):
        feedline.connect("127.0.0.1:1", compression="yes")  # type: ignore[arg-type]
