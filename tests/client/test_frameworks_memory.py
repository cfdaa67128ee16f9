"""A trainer's memory is flat over epochs, in every form of a feed."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from feedline.testing import FakeLoader, serve

pytestmark = pytest.mark.frameworks

EPOCHS = 50

MIB = 1 << 20

GROWTH_MOST = 24 * MIB
"""Of 50 epochs of 16 MiB: a batch that is kept in each of them would be 50 MiB, a window far more."""


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    with serve({"x": np.zeros((64, MIB // 16), np.float32), "y": np.arange(64)}) as loader:
        yield loader


@pytest.mark.parametrize(
    ("imports", "made"),
    [
        pytest.param("torch", "feed.torch()", id="torch"),
        pytest.param("torch", "feedline.torch.Batches(feed, copies=Copies())", id="copied ahead"),
        pytest.param("torch", "DataLoader(feedline.torch.IterableBatches(feed), batch_size=None)", id="DataLoader"),
        pytest.param(
            "torch",
            "DataLoader(feedline.torch.MapBatches(feed), batch_size=1, collate_fn=feedline.torch.first)",
            id="map",
        ),
        pytest.param("jax", "feed.jax()", id="jax"),
        pytest.param("grain, feedline.grain", "feedline.grain.dataset(feed)", id="grain"),
        pytest.param("tensorflow as tf", "feed.tf()", id="tf"),
        pytest.param("tensorflow as tf", "feed.tf_dataset()", id="tf_dataset"),
    ],
)
def test_fifty_epochs_take_no_more_memory_than_ten(
    trainers: Callable[..., list[list[Any]]], imports: str, made: str
) -> None:
    ((after_ten, after_all),) = trainers(
        f"""
        import gc, psutil
        if {imports == "torch"}:
            import feedline.torch
            from torch.utils.data import DataLoader
            class Copies:
                def allocate(self, nbytes):
                    return torch.empty(nbytes, dtype=torch.uint8)
                def begin(self, host):
                    return [tensor.clone() for tensor in host], self
                def query(self):
                    return True
                def await_on_current_stream(self, copied, done):
                    pass
        feed = connection.feed(batch_size=4)
        batches = {made}
        def read(epochs):
            for epoch in range(epochs):
                for x, y in batches:
                    assert len(x) == 4
            gc.collect()
            return psutil.Process().memory_info().rss
        say([read(10), read({EPOCHS - 10})])
        """,
        imports=imports,
    )[0]

    assert after_all - after_ten < GROWTH_MOST


@pytest.mark.parametrize(
    ("backend", "module", "first"),
    [
        pytest.param("tensorflow", "keras", 10, id="tensorflow"),
        pytest.param("jax", "keras", 10, id="jax"),
        pytest.param("torch", "keras", 10, id="torch"),
        # Its memory grows for some 30 epochs (by 30 to 40 MiB), and then by 5 MiB in 40: gRPC's threads come and go,
        # and each has an arena of the C library, where frames were. With MALLOC_ARENA_MAX=1 it is 8 MiB in 55 epochs.
        pytest.param("tensorflow", "tf_keras", 30, id="tf_keras"),
    ],
)
def test_fits_of_many_epochs_take_no_more_memory_than_the_first(
    trainers: Callable[..., list[list[Any]]],
    loader: FakeLoader,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    module: str,
    first: int,
) -> None:
    """And a batch that somebody holds keeps what it held, however many come after it."""
    monkeypatch.setenv("KERAS_BACKEND", backend)

    ((after_first, after_all, held_are_whole),) = trainers(
        f"""
        import gc, psutil
        import {module} as keras
        from feedline.{module} import RemoteSequence
        model = keras.Sequential([keras.Input(({MIB // 16},)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        with RemoteSequence({loader.address!r}, batch_size=4) as train:
            held = [batch for batch in train]
            def fit(epochs):
                model.fit(train, epochs=epochs, verbose=0)
                gc.collect()
                return psutil.Process().memory_info().rss
            after_first, after_all = fit({first}), fit({EPOCHS - 10})
            whole = all((x == 0).all() and y.tolist() == list(range(4 * i, 4 * i + 4)) for i, (x, y) in enumerate(held))
            say([after_first, after_all, whole])
        """,
        imports="sys",
    )[0]

    assert held_are_whole
    assert after_all - after_first < GROWTH_MOST
