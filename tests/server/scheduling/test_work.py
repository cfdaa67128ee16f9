"""What the batches of each view have cost is counted where they are sent, however often one assembly serves."""

from typing import Any

import pytest

from feedline_server.scheduling.work import Work, WorkByView
from feedline_server.workers.messages import Done
from feedline_wire import loader_pb2 as pb
from feedline_wire.key import Key

Stage = Any  # the fixture in conftest.py


def finish(stage: Stage, seconds: float) -> None:
    """The only task is done, and took a worker so long."""
    [task] = stage.tasks
    stage.tasks.clear()
    stage.scheduler.answer([(task, Done(task.number, None, {"read": seconds}))])


def test_a_batch_that_two_trainers_have_was_assembled_once_and_sent_twice(stage: Stage) -> None:
    one, two = stage.scheduler.open_stream("one"), stage.scheduler.open_stream("two")
    stage.want(one, 1, stage.key(epoch=7))
    stage.want(two, 1, stage.key(epoch=7))
    finish(stage, 0.5)
    assert stage.scheduler.status().work == {("numbers", "train"): Work(0, 0.5)}

    stage.take(one)
    stage.take(two)
    stage.scheduler.close_stream(one)

    assert stage.scheduler.status().work == {("numbers", "train"): Work(2, 0.5)}


def test_how_long_a_trainer_said_nothing_is_said_with_what_it_said(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("one")
    stage.scheduler.note_reader(stream, pb.Reader(dataset="numbers", view="train", trainer="a", batches=5))
    stage.now += 7.5

    [told] = stage.scheduler.status().streams[0].readers

    assert (told.batches, told.quiet_us) == (5, 7_500_000)
    assert stream.readers["a"][0].quiet_us == 0


def test_a_reader_that_was_heard_meanwhile_was_not_quiet(stage: Stage) -> None:
    stream = stage.scheduler.open_stream("one")
    stage.scheduler.note_reader(stream, pb.Reader(dataset="numbers", view="train", trainer="a"))
    stage.now -= 0.5  # the time of this status was read before that

    [told] = stage.scheduler.status().streams[0].readers

    assert told.quiet_us == 0


def test_what_was_only_sent_or_only_assembled_has_none_of_the_other() -> None:
    work = WorkByView()
    sent, assembled = (Key(name, b"f", "train", "sequential", 0, 0, 0, 1) for name in "ab")

    work.sent(sent)
    work.assembled(assembled, 0.5)

    assert work.now() == {("a", "train"): Work(1, 0.0), ("b", "train"): Work(0, 0.5)}


def test_what_grew_since_is_the_difference() -> None:
    assert Work(7, 3.5).since(Work(5, 1.5)) == Work(2, 2.0)


def test_who_waits_for_a_batch_is_not_woken_by_what_changes_nothing_for_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = stage.scheduler.open_stream("one")
    woken: list[int] = []
    monkeypatch.setattr(stream.changed, "notify", lambda: woken.append(1))

    stage.want(stream, 1, stage.key())
    assert woken == []
    stage.finish_all()
    assert woken == [1]
