"""What is shown of loaders and trainers follows from what they said: each trainer once, with what it waits for."""

import pytest

from feedline_wire import loader_pb2 as pb
from feedline_wire import stages
from feedline_wire.status import LoaderCounters, LoaderStatus, read_status, to_messages
from feedline_wire.view import view


def status(*readers: pb.Reader, **changes: object) -> LoaderStatus:
    """A loader of 4 workers that sent 30 batches of 1 MB in 10 s, each with a second of a worker."""
    now = LoaderCounters(workers=4, arena_bytes=1000, arena_lent=250, batches=900, bad_samples=3, workers_restarted=1)
    reply = pb.StatusReply(
        replica="r", version="0.2.0", counters=to_messages(now), recent_s=10.0,
        recent=to_messages(LoaderCounters(batches=30, bytes=30_000_000, assembling_s=30.0)),
        steps={"resize": 20.0}, trainers=[pb.Trainer(peer="p", readers=readers)],
    )  # fmt: skip
    for name, value in changes.items():
        setattr(reply, name, value)
    return read_status(reply)


def reader(trainer: str = "a", **changes: object) -> pb.Reader:
    """One that waited half of its 10 s, all of it for a transform, at step 24 of 100."""
    found = pb.Reader(
        dataset="d", view="train", rank=0, world=1, epoch=2, step=24, steps=100, batches=50, rows=1600,
        elapsed_us=10_000_000, waited_us=stages.listed({"transform": 5.0}), lane="tcp", trainer=trainer,
        total_batches=50,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_a_loader_is_shown_as_it_was_over_the_last_minute() -> None:
    (found,) = view({"a:1": status(reader())})["loaders"]

    assert found == {
        "address": "a:1", "replica": "r", "version": "0.2.0", "state": "serving", "workers": 4, "busy": 0.75,
        "arena_bytes": 1000, "arena_lent": 250, "bytes_per_s": 3_000_000.0, "batch_s": 1.0, "batches": 900,
        "trainers": 1, "bad_samples": 3, "worker_deaths": 1,
    }  # fmt: skip


def test_a_trainer_that_two_loaders_know_is_shown_once_as_it_is_now() -> None:
    found = view({"a:1": status(reader(step=23, total_batches=49)), "b:1": status(reader(), reader("b", rank=1))})

    first, second = found["trainers"]
    assert (first["trainer"], first["step"], second["trainer"], second["rank"]) == ("a", 24, "b", 1)
    assert first["waits"] == {"transform": 0.5}
    assert (first["waiting_share"], first["samples_per_s"], first["left_s"]) == (0.5, 160.0, 15.0)


def test_an_epoch_without_an_end_has_no_time_left() -> None:
    assert view({"a:1": status(reader(steps=0))})["trainers"][0]["left_s"] is None


def test_each_training_has_its_verdict_and_the_one_that_waits_most_is_first() -> None:
    idle = reader("b", view="validation")
    idle.waited_us[:] = []
    found = view({"a:1": status(idle, reader())})["verdicts"]

    assert [one["training"] for one in found] == ["d/train", "d/validation"]
    assert [one["cause"] for one in found] == ["workers", "trainer"]
    assert "`resize` on 1 loader with 4 workers" in found[0]["sentence"]


@pytest.mark.parametrize(
    ("changes", "state"),
    [({"draining": True, "short_of": "memory"}, "draining"), ({"short_of": "memory"}, "short of memory")],
)
def test_what_a_loader_lacks_is_its_state(changes: dict[str, object], state: str) -> None:
    assert view({"a:1": status(**changes)})["loaders"][0]["state"] == state


def test_loaders_of_0_2_0_and_none_at_all_are_shown_as_they_are() -> None:
    old = read_status(pb.StatusReply(replica="r", version="0.2.0"))

    assert view({"a:1": old})["loaders"][0]["busy"] == 0.0
    assert view({})["verdicts"] == []
