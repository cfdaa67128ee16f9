"""Requests of generator runs, answered without Keras: which plan, what is read ahead, what is remembered.

A run is a generator here as in Keras: it asks for one batch after the other and its local `indices` is its order.
"""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import feedline
from feedline import Batch
from feedline.keras import passes as passes_module
from feedline.keras.caller import Run, asking_frame, run_of
from feedline.keras.one_pass import Pass
from feedline.keras.passes import PASSES_HELD, Passes
from feedline.testing import FakeLoader, serve

N = 40
ROWS = 4
STEPS = 10


class Adapter:
    """What Keras makes for each call of fit."""


class Driven:
    """Keras' side of a pass: `next` makes it ask for its next batch."""

    def __init__(
        self,
        passes: Passes,
        order: Sequence[int],
        *,
        shuffled: bool,
        adapter: Adapter | None,
        asks: Iterable[int] = (),
        **run: bool,
    ) -> None:
        self._passes = passes
        self._shuffled = shuffled
        self._more = run
        self._adapter = adapter or Adapter()
        self._generator = self._run(list(order), list(asks) or list(order))

    def _run(self, indices: list[int], asks: list[int]) -> Iterator[Batch]:
        frame = self._generator.gi_frame  # type: ignore[attr-defined]  # it is a generator
        for index in asks:
            yield self._passes.answer(Run(frame, self._adapter, self._shuffled, **self._more), index, keep=True)

    def __iter__(self) -> Iterator[Batch]:
        return self._generator

    def __next__(self) -> Batch:
        return next(self._generator)


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    with serve({"x": np.arange(N)}) as served:
        yield served


@pytest.fixture
def passes(loader: FakeLoader) -> Iterator[Passes]:
    with feedline.connect(loader.address) as connection:
        arguments: dict[str, Any] = {"batch_size": ROWS, "prefetch": 4, "timeout_s": 20}
        made = Passes(
            connection.feed(order="shuffle", **arguments),
            connection.feed(order="sequential", **arguments),
            next_number=0,
            probe_batches=2,
        )
        yield made
        made.close()


def training(
    passes: Passes, order: Sequence[int] = range(STEPS), adapter: Adapter | None = None, **more: Any
) -> Driven:
    return Driven(passes, order, shuffled=True, adapter=adapter, **more)


def evaluation(passes: Passes, adapter: Adapter | None = None, **more: Any) -> Driven:
    return Driven(passes, range(STEPS), shuffled=False, adapter=adapter, **more)


def ids(batches: Iterable[Batch]) -> list[list[int]]:
    return [batch.ids.tolist() for batch in batches]


def samples(batches: list[list[int]]) -> list[int]:
    """All of them, sorted."""
    return sorted(sample for batch in batches for sample in batch)


def in_order(*indices: int) -> list[list[int]]:
    return [list(range(index * ROWS, (index + 1) * ROWS)) for index in indices]


# ---- what is answered ----


def test_a_pass_in_dataset_order_gets_batches_in_dataset_order(passes: Passes) -> None:
    assert ids(evaluation(passes)) == in_order(*range(STEPS))


def test_whatever_order_keras_mixes_a_pass_is_its_plan_from_the_first_batch_to_the_last(passes: Passes) -> None:
    """So what was trained is the plan up to some place at any moment, and can be continued from there."""
    passes.set_next_number(5)
    forward = ids(training(passes))
    passes.set_next_number(5)
    backward = ids(training(passes, range(STEPS)[::-1]))
    passes.set_next_number(5)
    mixed = ids(training(passes, [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]))

    assert forward == backward == mixed
    assert samples(forward) == list(range(N))


def test_in_one_pass_an_index_is_always_the_same_batch(passes: Passes) -> None:
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]

    announced = ids(training(passes, order))
    passes.set_next_number(0)
    otherwise = ids(training(passes, order, asks=[3, 1, 1, 3, 7, 0]))

    assert otherwise == [announced[order.index(index)] for index in (3, 1, 1, 3, 7, 0)]


def test_a_run_that_asks_otherwise_than_announced_is_still_answered_right(
    passes: Passes, caplog: pytest.LogCaptureFixture
) -> None:
    """Repeated, out of order, past its announced end: slower, and said once."""
    asks = [0, 1, 2, 7, 2, 2, 9, 0]

    answered = ids(evaluation(passes, asks=asks)) + ids(evaluation(passes, asks=asks))

    assert answered == in_order(*asks) * 2
    assert passes.statistics.surprises == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "request 3 was for batch 7" in caplog.text


def test_a_run_whose_order_cannot_be_read_is_answered_by_its_own_plan(passes: Passes) -> None:
    unreadable = [*range(STEPS), 3]  # not each index once

    first = ids(training(passes, unreadable, asks=range(STEPS)))
    second = ids(training(passes, unreadable, asks=range(STEPS)))

    assert samples(first) == samples(second) == list(range(N))
    assert first != second
    assert passes.statistics.surprises == 2


def test_passes_that_take_turns_do_not_mix(passes: Passes) -> None:
    one, two, three = training(passes), training(passes), evaluation(passes)
    begun = next(one)
    passes.set_next_number(1)

    turns = [ids([begun if turn == 0 else next(one), next(two), next(three)]) for turn in range(STEPS)]

    first, second, third = (list(column) for column in zip(*turns, strict=True))
    assert samples(first) == samples(second) == list(range(N))
    assert first != second
    assert third == in_order(*range(STEPS))


def test_a_training_pass_outlives_any_number_of_evaluations_that_were_abandoned(passes: Passes) -> None:
    """As when a callback calls `evaluate(steps=2)` every few batches."""
    train = training(passes)
    batches = []
    for _ in range(STEPS):
        batches.append(next(train))
        for _ in range(PASSES_HELD):
            next(evaluation(passes))

    assert samples(ids(batches)) == list(range(N))
    assert passes.number == 0


def test_keras_looking_at_batches_twice_gets_them_twice_and_they_are_fetched_once(
    loader: FakeLoader, passes: Passes
) -> None:
    """TensorFlow asks for 0 and 1 to see their shapes, and again to use them."""
    looked_at = ids([passes.answer(None, 0, keep=True), passes.answer(None, 1, keep=True)])
    used = ids(evaluation(passes))

    assert looked_at == in_order(0, 1)
    assert used == in_order(*range(STEPS))
    assert len(loader.requests) == STEPS


def test_batches_at_hand_are_given_only_where_they_belong(passes: Passes) -> None:
    passes.answer(None, 0, keep=True)
    passes.answer(None, 1, keep=True)

    assert ids(evaluation(passes, asks=[1, 0, 5])) == in_order(1, 0, 5)


def test_batches_kept_from_the_middle_do_not_disturb_a_pass(passes: Passes) -> None:
    """An evaluation that was abandoned after batch 2 leaves 1 and 2 behind."""
    abandoned = evaluation(passes)
    for _ in range(3):
        next(abandoned)

    assert ids(evaluation(passes)) == in_order(*range(STEPS))


def test_a_batch_that_the_caller_may_change_is_given_to_nobody_else(passes: Passes) -> None:
    passes.answer(None, 0, keep=False).data[:] = -1
    kept = passes.answer(None, 0, keep=True)
    changed = passes.answer(None, 0, keep=False)
    changed.data[:] = -1

    assert kept.data.tolist() == [0, 1, 2, 3]
    assert passes.answer(None, 0, keep=True).data.tolist() == [0, 1, 2, 3]


# ---- numbers ----


def test_each_training_pass_has_the_next_number(passes: Passes) -> None:
    numbers = []
    for _ in range(3):
        list(training(passes))
        numbers.append(passes.number)

    assert numbers == [0, 1, 2]


def test_the_number_of_a_build_probe_is_used_again(passes: Passes) -> None:
    next(training(passes))
    list(training(passes))

    assert passes.number == 0


def build(adapter: Adapter, look: Callable[[], Any]) -> Any:
    """Keras builds a model with batches of an adapter's."""
    module: dict[str, Any] = {"__name__": "keras.src.trainers.trainer"}
    exec("def _symbolic_build(iterator, look):\n    return look()\n", module)
    return module["_symbolic_build"](SimpleNamespace(data_adapter=adapter), look)


@pytest.mark.parametrize("looked_at", [1, 6, STEPS])
def test_the_number_of_a_build_probe_is_used_again_also_where_it_took_every_batch(
    passes: Passes, looked_at: int
) -> None:
    """A view of one batch, and a strategy that reads some batches ahead: the first epoch had plan 1."""
    fit = Adapter()
    probe = training(passes, adapter=fit)
    build(fit, lambda: [next(probe) for _ in range(looked_at)])
    first = ids(training(passes, adapter=fit))
    numbers = [passes.number]
    list(training(passes, adapter=fit))

    assert [*numbers, passes.number] == [0, 1]
    assert samples(first) == list(range(N))


def test_a_model_that_is_built_beside_a_training_is_no_probe_of_it(passes: Passes) -> None:
    fit = Adapter()
    train = training(passes, adapter=fit)
    build(Adapter(), lambda: list(train))
    list(training(passes, adapter=fit))

    assert passes.number == 1


@pytest.mark.parametrize("looked_at", [1, 2])
def test_what_was_looked_at_to_build_a_model_is_not_fetched_again(
    loader: FakeLoader, passes: Passes, looked_at: int
) -> None:
    fit = Adapter()
    probe = training(passes, [3, 1, 4, 0, 5, 9, 2, 6, 8, 7], adapter=fit)
    looks = ids(build(fit, lambda: [next(probe) for _ in range(looked_at)]))
    passes.answer(None, 0, keep=False)  # asked for after all others: when it is here, those are too
    ready = passes.statistics.ready

    first = ids(training(passes, adapter=fit))

    assert looks == first[:looked_at]
    assert first == plan_of(passes, 0)
    assert passes.statistics.ready >= ready + 2
    wanted = [key.offset for key in loader.requests if key.order == "shuffle"]
    assert sorted(wanted[:STEPS]) == list(range(0, N, ROWS))
    assert len(wanted) == 2 * STEPS  # and plan_of


def test_behind_what_was_looked_at_the_window_is_filled_with_the_first_request(
    loader: FakeLoader, passes: Passes
) -> None:
    fit = Adapter()
    build(fit, lambda: next(training(passes, adapter=fit)))
    train = training(passes, adapter=fit)

    next(train)

    loader.wait_until(lambda seen: len(seen.requests) == 1 + 4)
    assert [key.offset for key in loader.requests] == [0, 4, 8, 12, 16]


def test_a_view_of_one_batch_is_looked_at_without_asking_for_the_next_plan(loader: FakeLoader) -> None:
    with feedline.connect(loader.address) as connection:
        arguments: dict[str, Any] = {"batch_size": N, "timeout_s": 20}
        training_feed, canonical = connection.feed(**arguments), connection.feed(order="sequential", **arguments)
        passes = Passes(training_feed, canonical, next_number=0, probe_batches=2)
        fit = Adapter()
        build(fit, lambda: next(training(passes, [0], adapter=fit)))
        numbers = []
        for _ in range(3):
            list(training(passes, [0], adapter=fit))
            numbers.append(passes.number)
        passes.answer(None, 0, keep=False)
        passes.close()

    assert numbers == [0, 1, 2]
    assert [key.epoch for key in loader.requests if key.order == "shuffle"][:3] == [0, 1, 2]


def test_a_probe_of_several_batches_shows_by_the_fit_that_begins_anew(passes: Passes) -> None:
    """JAX on an accelerator, and distribution strategies, take more than one batch to build a model."""
    fit = Adapter()
    probe = training(passes, adapter=fit)
    for _ in range(6):
        next(probe)
    list(training(passes, adapter=fit))

    assert passes.number == 0


def test_a_pass_that_was_stopped_early_has_had_its_number(passes: Passes) -> None:
    stopped = training(passes)
    for _ in range(3):
        next(stopped)
    list(training(passes))  # of another fit

    assert passes.number == 1


def test_evaluations_take_no_numbers(passes: Passes) -> None:
    list(training(passes))
    list(evaluation(passes))
    list(training(passes))

    assert passes.number == 1


def test_a_number_that_was_set_holds_for_the_next_pass_and_not_for_the_one_in_progress(passes: Passes) -> None:
    train = training(passes)
    next(train)
    next(train)

    passes.set_next_number(7)
    list(train)
    during = passes.number
    list(training(passes))

    assert (during, passes.number) == (0, 7)


def test_a_copy_starts_with_the_pass_in_progress_or_else_the_next_one(passes: Passes) -> None:
    before = passes.resumes_with()
    train = training(passes)
    next(train)
    next(train)
    in_the_middle = passes.resumes_with()
    list(train)

    assert (before, in_the_middle, passes.resumes_with()) == (0, 0, 1)


# ---- reading ahead ----


@pytest.mark.parametrize(
    ("state", "limit"),
    [
        # It may be a build probe: no more than that.
        ({"probed": 2}, 2),
        ({"probed": 2, "requests": 1}, 1),
        ({"probed": 2, "kept": 1}, 1),
        ({"probed": 2, "kept": 3}, 0),
        # It is none: the rest of its order.
        ({"probed": 2, "requests": 2}, 8),
        ({}, 10),
        ({"requests": 4}, 6),
        ({"kept": 2}, 8),
        ({"kept": 2, "requests": 1}, 8),
        ({"kept": 2, "requests": 3}, 7),
        ({"requests": 10}, 0),
        # It is the second or a later one of a `fit`: as far as there is room.
        ({"follows": True}, None),
        ({"follows": True, "requests": 9}, None),
        # Nobody knows what is asked for next.
        ({"probed": 2, "order": range(1)}, 1),
        ({"order": None}, 0),
        ({"order": None, "follows": True}, 0),
    ],
)
def test_how_much_is_read_ahead_follows_from_the_state_of_a_pass(state: dict[str, Any], limit: int | None) -> None:
    fields: dict[str, Any] = {"feed": None, "start": None, "seen_at": 0.0, "kept": 0, "order": range(10)}

    assert Pass(**fields | state).limit() == limit


def test_little_is_read_ahead_for_what_may_be_a_build_probe(loader: FakeLoader, passes: Passes) -> None:
    next(training(passes))
    loader.wait_until(lambda seen: seen.answered == 2)

    assert len(loader.requests) == 2


def test_the_second_pass_of_a_fit_is_read_ahead_from_its_first_batch_on(loader: FakeLoader, passes: Passes) -> None:
    fit = Adapter()
    list(training(passes, adapter=fit))

    next(training(passes, adapter=fit))

    loader.wait_until(lambda seen: len(seen.requests) == STEPS + 1 + 4)


def test_each_batch_of_a_pass_is_fetched_once(loader: FakeLoader, passes: Passes) -> None:
    list(training(passes, [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]))

    assert sorted(key.offset for key in loader.requests) == list(range(0, N, ROWS))


def test_what_an_abandoned_pass_had_waiting_goes_when_the_next_one_begins(loader: FakeLoader, passes: Passes) -> None:
    abandoned = training(passes)
    for _ in range(3):
        next(abandoned)
    loader.wait_until(lambda seen: seen.answered == 3 + 4)

    list(training(passes))

    assert passes.buffered == 0


def test_a_pass_that_gave_way_is_read_ahead_again_when_it_goes_on(loader: FakeLoader, passes: Passes) -> None:
    older = evaluation(passes)
    batches = [next(older) for _ in range(3)]
    younger = ids(evaluation(passes))
    before = len(loader.requests)

    batches.append(next(older))
    loader.wait_until(lambda seen: len(seen.requests) == before + 1 + 4)
    batches += list(older)

    assert ids(batches) == younger == in_order(*range(STEPS))
    assert passes.buffered == 0


def test_a_pass_that_gives_way_while_it_waits_gets_its_batch_all_the_same(loader: FakeLoader, passes: Passes) -> None:
    older = evaluation(passes)
    batches = [next(older), next(older)]
    loader.stall()
    waiting = threading.Thread(target=lambda: batches.append(next(older)))
    waiting.start()
    loader.wait_until(lambda seen: len(seen.requests) == 2 + 4)

    next(evaluation(passes))  # begins with what is at hand, and takes the window away
    loader.wait_until(lambda seen: len(seen.requests) == 2 + 4 + 1)
    loader.resume()
    waiting.join(10)

    assert ids(batches) == in_order(0, 1, 2)


def test_what_a_pass_had_waiting_goes_when_it_is_over(passes: Passes) -> None:
    list(training(passes))

    assert passes.buffered == 0


def test_what_was_ready_and_waited_for_is_counted(passes: Passes) -> None:
    passes.answer(None, 0, keep=True)
    passes.answer(None, 0, keep=True)
    passes.answer(None, 1, keep=True)

    assert (passes.statistics.requests, passes.statistics.ready) == (3, 1)
    assert 0 < passes.statistics.waited_s <= passes.statistics.passes_s


# ---- from one pass into the next ----


def passed(passes: Passes, fit: Adapter, times: int) -> list[list[list[int]]]:
    """The batches of so many passes of one fit, each in another order of Keras'."""
    return [ids(training(passes, range(STEPS)[:: (-1) ** time], fit)) for time in range(times)]


def plan_of(passes: Passes, number: int) -> list[list[int]]:
    passes.set_next_number(number)
    return ids(training(passes))


def test_after_the_second_pass_of_a_fit_the_third_is_read_ahead_and_fetched_once(
    loader: FakeLoader, passes: Passes
) -> None:
    fit = Adapter()
    passed(passes, fit, 2)
    passes.answer(None, 0, keep=False)  # asked for after all others: when it is here, those are too

    buffered, ready = passes.buffered, passes.statistics.ready
    train = training(passes, range(STEPS)[::-1], fit)
    third = ids([next(train) for _ in range(4)])
    at_once = passes.statistics.ready - ready
    third += ids(train)
    fourth = ids(training(passes, adapter=fit))

    assert (buffered, at_once) == (4, 4)
    passes.answer(None, 0, keep=False)
    assert len(loader.requests) == 4 * STEPS + 4 + 2
    assert [third, fourth] == [plan_of(passes, 2), plan_of(passes, 3)]


def test_after_the_first_pass_of_a_fit_nothing_more_is_wanted(loader: FakeLoader, passes: Passes) -> None:
    """There may be only one epoch."""
    passed(passes, Adapter(), 1)
    passed(passes, Adapter(), 1)
    passes.answer(None, 0, keep=False)  # asked for after all others: when it is here, those were seen

    assert len(loader.requests) == 2 * STEPS + 1


def test_an_evaluation_between_two_passes_leaves_what_was_read_ahead(loader: FakeLoader, passes: Passes) -> None:
    fit = Adapter()
    passed(passes, fit, 2)
    list(evaluation(passes))
    before = len(loader.requests)

    third = ids(training(passes, adapter=fit))

    loader.wait_until(lambda seen: len(seen.requests) == before + STEPS)
    assert third == plan_of(passes, 2)


def test_what_was_read_ahead_for_a_fit_that_is_over_is_given_up(loader: FakeLoader, passes: Passes) -> None:
    fit = Adapter()
    passed(passes, fit, 2)
    passes.answer(None, 0, keep=False)
    before = passes.buffered

    del fit
    gc.collect()

    assert (before, passes.buffered) == (4, 0)
    assert ids(training(passes)) == plan_of(passes, 2)


def test_what_was_read_ahead_goes_to_no_pass_of_another_fit_or_with_another_number(
    loader: FakeLoader, passes: Passes
) -> None:
    fit = Adapter()
    passed(passes, fit, 2)

    of_another_fit = ids(training(passes, adapter=Adapter()))
    passed(passes, fit, 2)
    passes.set_next_number(9)
    with_another_number = ids(training(passes, adapter=fit))

    assert of_another_fit == plan_of(passes, 2)
    assert with_another_number == plan_of(passes, 9)
    assert passes.buffered == 0


def test_a_pass_that_gave_up_its_order_reads_nothing_beyond_itself(loader: FakeLoader, passes: Passes) -> None:
    fit = Adapter()
    passed(passes, fit, 2)

    third = ids(training(passes, asks=[0, 1, 7, *range(3, STEPS)], adapter=fit))
    fourth = ids(training(passes, adapter=fit))

    plan = plan_of(passes, 2)
    assert third == [plan[index] for index in (0, 1, 7, *range(3, STEPS))]
    assert fourth == plan_of(passes, 3)


def test_passes_that_are_cut_from_a_line_go_on_along_it() -> None:
    """Under `wrap` a pass ends where the batch size does, and the next one begins there."""
    with serve({"x": np.arange(N + 2)}) as loader, feedline.connect(loader.address) as connection:
        feed = connection.feed(order="shuffle", batch_size=ROWS, prefetch=4, remainder="wrap", timeout_s=20)
        canonical = connection.feed(order="sequential", batch_size=ROWS, remainder="wrap", timeout_s=20)
        passes = Passes(feed, canonical, next_number=0, probe_batches=2)
        fit = Adapter()
        line = [ids(training(passes, range(STEPS + 1), fit)) for _ in range(2 * ROWS)]
        passes.close()

    counts = np.bincount(np.array(line).ravel(), minlength=N + 2)
    assert counts.min() >= 2 * ROWS
    assert counts.max() <= 2 * ROWS + 1


def test_closing_gives_up_what_was_read_ahead(loader: FakeLoader, passes: Passes) -> None:
    fit = Adapter()
    passed(passes, fit, 2)
    loader.wait_until(lambda seen: seen.answered == 2 * STEPS + 4)

    passes.close()

    assert passes.buffered == 0


# ---- wrappers, and threads that ask beside each other ----


def test_a_wrapper_that_asks_for_what_it_likes_is_answered_without_a_word(
    passes: Passes, caplog: pytest.LogCaptureFixture
) -> None:
    asks = [0, 1, 2, 7, 2, 9]

    answered = ids(Driven(passes, range(STEPS), shuffled=False, adapter=None, asks=asks, is_direct=False))

    assert answered == in_order(*asks)
    assert passes.statistics.surprises == 0
    assert not caplog.records


def test_threads_that_ask_beside_each_other_share_a_pass_in_the_order_that_keras_keeps(passes: Passes) -> None:
    """As those of Keras 2's enqueuer: each index once, in nearly its order, and then some of a round too many."""
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    asks = [1, 3, 4, 5, 0, 9, 2, 6, 7, 8, 3, 1]

    answered = ids(Driven(passes, order, shuffled=True, adapter=None, asks=asks, is_in_turn=False))
    number = passes.number
    plan = plan_of(passes, 0)

    assert number == 0
    assert answered == [plan[order.index(index)] for index in asks]
    assert passes.statistics.surprises == 0


# ---- the end ----


def test_closing_wakes_a_pass_that_waits(loader: FakeLoader, passes: Passes) -> None:
    train = training(passes)
    next(train)
    next(train)
    loader.stall()
    loader.wait_until(lambda seen: len(seen.requests) == 2)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            list(train)
        except feedline.Closed as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    loader.wait_until(lambda seen: len(seen.requests) == 6)
    passes.close()
    waiting.join(10)

    assert len(raised) == 1


def test_after_an_error_nothing_is_read_ahead_for_the_pass_that_had_it(loader: FakeLoader, passes: Passes) -> None:
    loader.fail(lambda key: feedline.BadSample("sample 9 is torn") if key.offset == 2 * ROWS else None)

    with pytest.raises(feedline.BadSample, match="sample 9 is torn"):
        list(evaluation(passes))

    assert passes.buffered == 0


def test_a_frame_stands_for_a_run(passes: Passes) -> None:
    """`leave` is what `for batch in sequence` calls when it is left early."""
    run = evaluation(passes)
    next(run)
    frame: FrameType = run._generator.gi_frame  # type: ignore[attr-defined]

    passes.leave(frame)

    assert passes.buffered == 0


# ---- the sequence's own iteration ----


class Iterated:
    """Asks itself, as a RemoteSequence does in `for batch in sequence`, and notes which run it found."""

    def __init__(self) -> None:
        self.runs: list[Run | None] = []

    def __getitem__(self, index: int) -> int:
        frame = asking_frame(self)
        self.runs.append(run_of(frame, self, overridden=False, iteration=Iterated.__iter__.__code__))
        return index

    def __iter__(self) -> Iterator[int]:
        indices = range(3)
        for index in indices:
            yield self[index]


def test_the_sequences_own_iteration_is_known_by_its_code_in_whatever_module_it_is() -> None:
    iterated = Iterated()

    assert list(iterated) == [0, 1, 2]

    found = [(run.adapter, run.shuffled, run.order()) for run in iterated.runs if run]
    assert found == [(None, False, range(3))] * 3


def test_another_iteration_over_a_sequence_is_no_run_of_it() -> None:
    iterated = Iterated()

    for index in (iterated[index] for index in range(3)):
        assert index in {0, 1, 2}

    assert iterated.runs == [None] * 3


# ---- what is given up ----


class Held:
    """What a run of Keras' generator has in hand."""


def test_a_build_probe_holds_nothing_when_its_fit_has_begun(passes: Passes) -> None:
    """The generator that Keras had thrown away was remembered, with the batch that it held: 128 MB on JAX."""
    adapter = Adapter()

    def run(indices: list[int], held: Held) -> Iterator[Batch]:
        frame = generator.gi_frame
        for index in indices:
            yield passes.answer(Run(frame, adapter, True), index, keep=True)
        del held

    held = Held()
    gone = weakref.ref(held)
    generator: Any = None
    generator = run(list(range(STEPS)), held)
    next(generator)
    next(generator)
    generator = held = None  # type: ignore[assignment]

    taken = list(training(passes, adapter=adapter))

    assert [batch.index for batch in taken] == list(range(STEPS))
    gc.collect()
    assert gone() is None


def fit_of(passes: Passes, adapter: Adapter, during: threading.Event, after: threading.Event) -> threading.Thread:
    """A `fit` as Keras has it: two passes, then something slow in it."""
    module: dict[str, Any] = {"__name__": "keras.src.trainer"}
    exec("def fit(epoch_iterator, passes, after_passes):\n    passes()\n    after_passes()\n", module)

    def two() -> None:
        for _ in range(2):
            list(training(passes, adapter=adapter))
        during.set()

    iterator = SimpleNamespace(data_adapter=adapter)
    thread = threading.Thread(target=module["fit"], args=(iterator, two, lambda: after.wait(30)))
    thread.start()
    return thread


def test_what_is_read_ahead_for_the_next_epoch_stays_while_fit_runs_and_goes_when_it_has_returned(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter may live on: what had been read ahead for an epoch that never came stayed with it."""
    monkeypatch.setattr(passes_module, "GIVEN_UP_S", 0.05)
    adapter, during, after = Adapter(), threading.Event(), threading.Event()
    fit = fit_of(passes, adapter, during, after)
    assert during.wait(30)
    until(lambda: passes.buffered == 4, "the next epoch is read ahead")
    time.sleep(0.3)  # a slow validation: six times as long as what is given up after
    assert passes.buffered == 4

    after.set()
    fit.join(30)

    until(lambda: passes.buffered == 0, "it is given up")
    del fit
    until(lambda: not passes._is_looked_after, "nothing is left to look after")


def test_a_pass_that_is_left_in_its_middle_is_given_up_too_and_goes_on_if_it_is_asked_again(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes_module, "GIVEN_UP_S", 0.05)
    run = training(passes, adapter=(adapter := Adapter()))
    taken = [next(run), next(run), next(run)]
    until(lambda: passes.buffered == 0, "it is given up")

    taken += list(run)

    assert [batch.index for batch in taken] == list(range(STEPS))
    del adapter


def test_what_is_read_ahead_for_a_pass_that_goes_on_is_given_up_again(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looked after it any more: a slow machine gave it up between two batches."""
    monkeypatch.setattr(passes_module, "GIVEN_UP_S", 0.05)
    run = training(passes, adapter=(adapter := Adapter()))
    taken = [next(run), next(run), next(run)]
    until(lambda: not passes._is_looked_after, "it is given up")

    taken += [next(run)]

    until(lambda: not passes._is_looked_after and passes.buffered == 0, "it is given up again")
    taken += list(run)
    assert [batch.index for batch in taken] == list(range(STEPS))
    del adapter


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)  # it happens on a thread that tells nobody
