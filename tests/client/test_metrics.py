"""A trainer serves what its feeds counted, summed by view and rank."""

import urllib.error
import urllib.request

import numpy as np
import pytest

import feedline
import feedline.metrics
from feedline.testing import serve
from feedline_wire.errors import InvalidRequest


def test_a_trainer_serves_what_its_feeds_were_given() -> None:
    x = np.zeros((30, 2), np.float32)
    with serve({"x": x}, name="mine") as loader, feedline.connect(loader.address) as connection:
        first, second = connection.feed(batch_size=10), connection.feed(batch_size=5, rank=1, world=2)
        assert (len(list(first)), len(list(second))) == (3, 3)
        server = feedline.metrics.serve(0)
        try:
            with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=20) as answer:
                kind, lines = answer.headers["Content-Type"], answer.read().decode().splitlines()
            with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                urllib.request.urlopen(f"http://{server.address}/", timeout=20)
            refused.value.close()
            with pytest.raises(InvalidRequest, match="metrics cannot be served at"):
                feedline.metrics.serve(int(server.address.rpartition(":")[2]))
            with pytest.raises(InvalidRequest, match=r"cannot be served at 127\.0\.0\.1:99999: .*port must be 0-65535"):
                feedline.metrics.serve(99999)
        finally:
            server.close()

    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    assert 'feedline_trainer_batches_total{dataset="mine",view="train",rank="0"} 3' in lines
    assert 'feedline_trainer_rows_total{dataset="mine",view="train",rank="1"} 15' in lines
    own = 'dataset="mine",view="train",rank="0"'  # other feeds of this process are served too
    waits = [line for line in lines if line.startswith("feedline_trainer_wait_seconds_total{") and own in line]
    assert sum(float(line.rpartition(" ")[2]) for line in waits) == pytest.approx(first.stats.waited_s)
