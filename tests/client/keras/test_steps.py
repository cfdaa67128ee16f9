"""How long a step waited for its batch, by who asks for it and when the step before it was done; without Keras."""

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from feedline.keras import steps as module
from feedline.keras.steps import STEPS_KEPT, Steps
from feedline_wire.errors import InvalidRequest
from feedline_wire.key import Key, from_text


class Clock:
    """A clock that stands where the test says."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def batch(number: int) -> Any:
    return SimpleNamespace(
        identity=Key("voxels", b"f", "train", "shuffle", 1, 0, 4 * number, 4), ids=np.arange(4) + number
    )


def on_another_thread(act: Any) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join(10)


def test_the_thread_that_trains_waits_as_long_as_its_request_takes(clock: Clock) -> None:
    steps = Steps()
    steps.begin()
    steps.begin_epoch()
    clock.now = 3

    steps.give(batch(0), asked_at=1.0)

    assert steps.waited_s == 2


@pytest.mark.parametrize(
    ("asked_at", "finished", "finished_at", "given_at", "waited"),
    [
        (1.0, 1, 4.0, 6.0, 2.0),  # asked ahead of the step, needed at 4, there at 6
        (5.0, 1, 4.0, 6.0, 1.0),  # asked late: what lies between is not the loader's
        (1.0, 0, 0.0, 6.0, 0.0),  # the step before it is still under way
    ],
)
def test_where_another_thread_asks_a_wait_begins_with_the_end_of_the_step_before(
    clock: Clock, asked_at: float, finished: int, finished_at: float, given_at: float, waited: float
) -> None:
    steps = Steps()
    steps.begin_epoch()
    steps.begin()
    on_another_thread(lambda: steps.give(batch(0), asked_at=0.0))
    if finished:
        clock.now = finished_at
        steps.finish(finished)
    clock.now = given_at

    on_another_thread(lambda: steps.give(batch(1), asked_at=asked_at))

    assert steps.waited_s == waited


def test_each_epoch_is_counted_anew(clock: Clock) -> None:
    steps = Steps()
    steps.begin()
    steps.begin_epoch()
    clock.now = 3
    steps.give(batch(0), asked_at=1.0)

    steps.begin_epoch()

    assert steps.waited_s == 0


def test_a_step_says_which_batch_it_was(clock: Clock) -> None:
    steps = Steps()
    steps.begin()
    for number in range(3):
        steps.give(batch(number), asked_at=0.0)

    trained = steps.trained(1)

    assert from_text(trained.key).offset == 4
    assert trained.ids.tolist() == [1, 2, 3, 4]


def test_what_was_never_given_and_what_is_long_past_is_not_known(clock: Clock) -> None:
    steps = Steps()
    with pytest.raises(InvalidRequest, match="batch 0 is not known; no training pass has begun"):
        steps.trained(0)
    for number in range(STEPS_KEPT + 5):
        steps.give(batch(number), asked_at=0.0)

    for unknown in (4, STEPS_KEPT + 5):
        with pytest.raises(InvalidRequest, match=f"batch {unknown} is not known; 5 to 68 of this pass are known"):
            steps.trained(unknown)
    assert steps.trained(5).ids.tolist() == [5, 6, 7, 8]
