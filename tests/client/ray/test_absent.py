"""Where Ray is not installed: the import works, and everything else says which extra to install."""

import importlib.util
from collections.abc import Callable

import pytest

import feedline
import feedline.ray
from feedline_wire.extras import ExtraMissing


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else real(name, *rest))


@pytest.mark.parametrize(
    "call",
    [
        lambda: feedline.ray.start("/data", name="digits"),
        lambda: feedline.ray.stop("digits"),
        lambda: feedline.ray.status("digits"),
        lambda: feedline.ray.addresses("digits"),
        feedline.ray.fleets,
        lambda: feedline.ray.feed("loader:50051"),
    ],
)
def test_every_function_names_the_extra(call: Callable[[], object]) -> None:
    with pytest.raises(
        ExtraMissing, match=r"feedline.ray needs ray, which is not installed here; install with: .*ray\]"
    ):
        call()


def test_a_target_on_ray_names_the_extra_at_once_and_not_at_the_deadline() -> None:
    with pytest.raises(ExtraMissing, match=r"feedline.ray needs ray"):
        feedline.connect("ray:digits", timeout_s=1000)
