import dataclasses

from feedline_wire import loader_pb2 as pb
from feedline_wire.status import LoaderCounters, StreamCounters, for_log, read_status, to_messages


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
