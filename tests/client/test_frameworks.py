"""What is said where a framework is not installed: nothing is imported until it is asked for."""

import sys
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

import feedline
from feedline.testing import serve
from feedline_wire.extras import ExtraMissing


@pytest.mark.parametrize(
    ("room", "module", "extra"),
    [
        ("feedline.torch", "torch", "torch"),
        ("feedline.jax", "jax", "jax"),
        ("feedline.grain", "grain", "grain"),
        ("feedline.tf", "tensorflow", "tensorflow"),
        ("feedline.tf_keras", "tf_keras", "tf-keras"),
    ],
)
def test_a_framework_that_is_missing_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, room: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, room, raising=False)

    with pytest.raises(ExtraMissing, match=rf"{room} needs {module}, which is not installed here.*\[{extra}\]"):
        import_module(room)


@pytest.mark.parametrize(
    ("of_feed", "room", "function", "by_default"),
    [
        ("torch", "feedline.torch", "over", {"device": None, "pin_memory": None, "with_ids": False}),
        ("jax", "feedline.jax", "over", {"sharding": None, "ahead": 2, "with_ids": False}),
        ("tf", "feedline.tf", "over", {"with_ids": False}),
        ("tf_dataset", "feedline.tf", "data", {"with_ids": False}),
    ],
)
def test_a_feed_gives_itself_to_the_room_of_a_framework(
    monkeypatch: pytest.MonkeyPatch, of_feed: str, room: str, function: str, by_default: dict[str, object]
) -> None:
    monkeypatch.setitem(sys.modules, room, SimpleNamespace(**{function: lambda feed, **options: (feed, options)}))
    with serve({"x": np.zeros((3, 1))}) as loader, feedline.connect(loader.address) as connection:
        feed = connection.feed(batch_size=1)

        assert getattr(feed, of_feed)() == (feed, by_default)
        assert getattr(feed, of_feed)(with_ids=True) == (feed, by_default | {"with_ids": True})
