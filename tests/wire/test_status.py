import dataclasses

import pytest

from feedline_wire import loader_pb2 as pb
from feedline_wire.status import LoaderCounters, StreamCounters, for_log, read_status, readers_of, to_messages


def test_counters_arrive_with_their_values_and_types() -> None:
    sent = LoaderCounters(batches=7, waited_s=3.0)

    status = read_status(pb.StatusReply(counters=to_messages(sent)))

    assert dict(status.counters) == dataclasses.asdict(sent)
    assert isinstance(status.counters["batches"], int)
    assert isinstance(status.counters["waited_s"], float)
    assert isinstance(status.counters["assembling_s"], float)  # the table says so, though nobody has written it


def test_every_counter_says_its_unit_and_what_it_is() -> None:
    for message in (*to_messages(LoaderCounters()), *to_messages(StreamCounters())):
        assert message.unit, message.name
        assert message.meaning, message.name
        assert (message.unit == "s") == message.name.endswith("_s")


def test_a_line_of_the_log_has_every_counter() -> None:
    assert for_log(LoaderCounters(bytes=5, uptime_s=1.26)) == {
        **dataclasses.asdict(LoaderCounters()),
        "bytes": 5,
        "uptime_s": 1.3,
    }


def reader(
    quiet_s: float, *, batches: int = 60, loaders: int = 1, trainer: str = "a", elapsed_s: float = 60, rank: int = 0
) -> pb.Reader:
    """It read so many batches in a minute, and has said nothing for so long."""
    return pb.Reader(
        dataset="d", view="train", trainer=trainer, elapsed_us=int(elapsed_s * 1e6), batches=batches, loaders=loaders,
        quiet_us=int(quiet_s * 1e6), rank=rank,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("told", "waiting", "is_reading"),
    [
        pytest.param([reader(1)], 0, [True], id="it has just said so"),
        pytest.param([reader(9)], 0, [False], id="it evaluates, or saves its weights"),
        pytest.param([reader(9)], 1, [True], id="it waits for a batch that takes long"),
        pytest.param([reader(9), reader(1, trainer="b")], 1, [False, True], id="the other view is the one that waits"),
        pytest.param(
            [reader(4), reader(0.5, trainer="b", elapsed_s=3)],
            1,
            [False, True],
            id="the next epoch is a feed of its own",
        ),
        pytest.param(
            [reader(0.9), reader(0.5, trainer="b", elapsed_s=3)], 1, [True, True], id="two loops read the same at once"
        ),
        pytest.param(
            [reader(4), reader(0.5, trainer="b", elapsed_s=3, rank=1)], 1, [True, True], id="another rank begins later"
        ),
        pytest.param([reader(60, batches=3)], 0, [True], id="a step takes it 20 s"),
        pytest.param([reader(60, loaders=64)], 0, [True], id="each of its loaders is told every 64 s"),
        pytest.param(
            [pb.Reader(dataset="d", view="train", elapsed_us=1)], 0, [True], id="of an older loader, which does not say"
        ),
        pytest.param([pb.Reader(dataset="d", view="train", trainer="a")], 1, [], id="it is going to read"),
    ],
)
def test_whether_a_trainer_reads_shows_in_when_it_last_spoke(
    told: list[pb.Reader], waiting: int, is_reading: list[bool]
) -> None:
    stream = pb.Trainer(peer="p", counters=to_messages(StreamCounters(waiting=waiting)), readers=told)

    found = readers_of([read_status(pb.StatusReply(trainers=[stream]))])

    assert [one.is_reading for one in found] == is_reading


def test_what_batches_of_each_view_cost_arrives_by_its_name() -> None:
    reply = pb.StatusReply(work=[pb.Work(dataset="d", view="train", batches=7, assembling_s=1.5)])

    assert read_status(reply).work == {"d/train": (7, 1.5)}
