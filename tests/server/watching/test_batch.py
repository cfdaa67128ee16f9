"""A batch for people to look at: asked for as a trainer asks, pictures where rows look like them, else histograms."""

import base64
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from feedline_server.watching import batch as module
from feedline_server.watching.batch import batch_values, key_of
from feedline_wire.errors import InvalidRequest, LoaderBusy, LoaderStalled

Stage = Any  # the fixture in conftest.py


@pytest.mark.parametrize(
    ("shape", "dtype", "shown"),
    [
        ((4, 32, 16, 3), "uint8", [32, 16, 3]),
        ((4, 32, 16), "float32", [32, 16, 1]),
        ((4, 300, 200, 1), "int16", [100, 67, 1]),  # every third pixel
        ((4, 32, 16, 2), "uint8", None),  # no colours
        ((4, 4, 16, 3), "uint8", None),  # too low
        ((4, 32), "float32", None),
        ((4,), "int64", None),
    ],
)
def test_rows_that_look_like_pictures_are_pictures_and_others_a_histogram(
    shape: tuple[int, ...], dtype: str, shown: list[int] | None
) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)

    found = module._column("x", values)

    assert [image["shape"] for image in found["images"]] == ([] if shown is None else [shown] * 4)
    assert len(found["histogram"]) == (module.BINS if shown is None else 0)
    for image in found["images"]:
        assert len(base64.b64decode(image["data"])) == np.prod(image["shape"])


def test_what_is_no_number_breaks_no_picture_and_no_histogram() -> None:
    holes = np.full((2, 16, 16), np.nan, np.float32)
    holes[0, 0, 0] = 3

    assert len(module._column("x", holes)["images"]) == 2
    assert module._column("y", np.full(3, np.inf))["summary"] == "no numbers"
    assert module._column("z", np.array([1 + 1j, 2j]))["summary"].startswith("min 1.41421, max 2")


def test_only_what_the_caller_may_have_can_be_asked_for(stage: Stage) -> None:
    catalog = stage.scheduler._catalog

    assert key_of(catalog, "numbers/train", 3).offset == 3
    for of in ("", "numbers", "numbers/none", "none/train"):
        with pytest.raises(InvalidRequest, match="there is no such dataset and view here"):
            key_of(catalog, of, 0)
    with pytest.raises(InvalidRequest, match="there is no such dataset and view here"):
        key_of(catalog.seen_by(frozenset({"other"})), "numbers/train", 0)
    with pytest.raises(InvalidRequest, match="is a stream"):
        key_of(catalog, "endless/train", 0)


def looked(stage: Stage, work: Callable[[], None]) -> object:
    """What a page gets while the loader does this work."""
    found: list[object] = []

    def look() -> None:
        try:
            found.append(batch_values(stage.scheduler, stage.scheduler._catalog, None, "numbers/train", 0))
        except Exception as error:
            found.append(error)

    page = threading.Thread(target=look)
    page.start()
    while not stage.tasks and page.is_alive():
        page.join(0.01)
    work()
    page.join(30)
    return found[0]


def test_a_batch_is_shown_and_its_memory_and_place_given_back(stage: Stage) -> None:
    found = looked(stage, stage.finish_all)

    assert isinstance(found, dict)
    assert found["title"].startswith("numbers/train sequential")
    assert {"__ids__"} < {column["name"] for column in found["columns"]}
    assert stage.arena.allocated_nbytes == 0
    assert not stage.scheduler.status().streams
    assert stage.scheduler.status().counters.batches == 0  # no trainer was sent it


def test_a_page_waits_no_longer_than_it_is_worth(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WITHIN_S", 0.1)

    found = looked(stage, lambda: None)

    assert isinstance(found, LoaderStalled)
    assert not stage.scheduler.status().streams


def test_where_trainers_have_all_places_a_page_has_none(stage: Stage) -> None:
    for number in range(3):
        stage.scheduler.open_stream(str(number))

    with pytest.raises(LoaderBusy):
        batch_values(stage.scheduler, stage.scheduler._catalog, None, "numbers/train", 0)
