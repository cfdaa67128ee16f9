"""What a broken network changes is noticed, asked for again, counted and said; with `checksum`."""

import logging

import numpy as np
import pytest
from busy import next_without_a_stall

import feedline
import feedline.testing
from feedline_wire.errors import Damaged

X = np.arange(8000, dtype=np.int64).reshape(1000, 8)


def test_without_a_checksum_a_turned_bit_is_believed() -> None:
    """Why there is one: the kernel's own is not made again behind a network card that has it done in hardware."""
    with feedline.testing.serve({"x": X}) as loader, feedline.connect(loader.address) as connected:
        loader.damage()

        [batch] = connected.epoch(0, batch_size=1000, order="sequential")

    assert np.count_nonzero(batch["x"] != X) == 1


@pytest.mark.parametrize("frame_bytes", [2 << 20, 500])  # in one frame each, and in several
def test_a_damaged_frame_is_asked_for_again_and_never_delivered(
    frame_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        feedline.testing.serve({"x": X}, frame_bytes=frame_bytes) as loader,
        feedline.connect(loader.address, checksum=True) as connected,
        caplog.at_level(logging.WARNING, "feedline"),
    ):
        loader.damage()

        batches = list(connected.epoch(0, batch_size=100, order="sequential", prefetch=3))
        stats = connected.stats

    assert np.array_equal(np.concatenate([batch["x"] for batch in batches]), X)
    assert stats.damaged == 1
    assert stats.retried == 3  # what was on its way with it
    assert [record.message for record in caplog.records if "arrived damaged" in record.message]
    assert "damaged=1" in repr(connected)


def test_a_way_that_damages_everything_is_an_error_at_the_deadline_that_says_so() -> None:
    with (
        feedline.testing.serve({"x": X}) as loader,
        feedline.connect(loader.address, checksum=True) as connected,
    ):
        loader.damage(frames=1000)

        epoch = connected.epoch(0, batch_size=100, timeout_s=1.0)
        with pytest.raises(feedline.LoaderUnavailable, match="arrived damaged"):
            next_without_a_stall(epoch)


def test_damage_is_the_networks_turn() -> None:
    assert issubclass(Damaged, feedline.LoaderUnavailable)
