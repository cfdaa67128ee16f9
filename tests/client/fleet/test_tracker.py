"""How each event changes a fleet's books, with loaders that do exactly what the test says, at the time that it says."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np
import pytest

from feedline.connection.buffers import Buffers, Received
from feedline.connection.connection import Connection
from feedline.connection.credentials import Credentials
from feedline.connection.description import DatasetInfo, Description
from feedline.connection.events import HEARD, Answered, Draining, Joined, Lost, SameLoader
from feedline.connection.outbox import Outbox
from feedline.connection.target import Address
from feedline.fleet.endpoint import Endpoint, State
from feedline.fleet.requests import PendingBatch
from feedline.fleet.tracker import RequestTracker, log
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import (
    BadSample,
    Closed,
    Damaged,
    DatasetChanged,
    FeedlineError,
    LoaderBusy,
    LoaderDraining,
    LoaderUnavailable,
    NotAllowed,
    NotTrusted,
    ProtocolMismatch,
)
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

NBYTES = 1000
BATCH = Received(np.empty(0, np.uint8), Layout((), NBYTES))


class NoOwner:
    """Nobody calls a replica that was never started."""


@dataclass
class Clock:
    """A tracker, the time, and loaders that are told what to do."""

    tracker: RequestTracker = field(init=False)
    now: float = 1000.0
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    offsets: count = field(default_factory=count)
    lines: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.tracker = RequestTracker(lambda: self.calls.update(["wake"]), lambda: self.calls.update(["ask names"]))

    def add(self, name: str) -> Endpoint:
        connection = Connection(Address(f"{name}:1"), NoOwner(), Buffers(0), Credentials())  # type: ignore[arg-type]
        endpoint = self.endpoints[name] = Endpoint(connection)
        self.tracker.endpoints += (endpoint,)
        return endpoint

    def join(self, name: str, *, fingerprint: bytes = b"\x01", replica: str = "", max_window: int = 999) -> object:
        endpoint = self.endpoints.get(name) or self.add(name)
        info = DatasetInfo("voxels", fingerprint, 9999, (), (), {"train": 9999}, ("shuffle",))
        described = Description("1", replica or name, {"voxels": info}, max_batch_nbytes=9999, max_window=max_window)
        return self.tracker.happened(endpoint, Joined(described, Outbox()), self.now)

    def want(self, batches: int = 1, *, fingerprint: bytes = b"\x01") -> list[PendingBatch]:
        keys = [
            Key("voxels", fingerprint, "train", "shuffle", seed=0, epoch=0, offset=next(self.offsets), rows=1)
            for _ in range(batches)
        ]
        return [self.tracker.want(key, NBYTES, self.now) for key in keys]

    def answer(self, name: str, *wanted: PendingBatch, outcome: object = BATCH) -> None:
        endpoint = self.endpoints[name]
        answered = Answered([(one.ticket, outcome) for one in wanted])  # type: ignore[misc]
        self.tracker.happened(endpoint, answered, self.now)

    def lose(self, name: str, reason: FeedlineError | None = None) -> None:
        self.tracker.happened(self.endpoints[name], Lost(reason or LoaderUnavailable("reset by peer")), self.now)

    def owes(self, name: str) -> list[PendingBatch]:
        return [asked.pending for asked in self.endpoints[name].in_flight.values() if asked.pending.outcome is None]

    def read(self) -> dict[str, tuple[list[int], list[int]]]:
        """What each is told since this was last read: (tickets wanted, tickets cancelled)."""
        read = {}
        for name, endpoint in self.endpoints.items():
            if (outbox := endpoint.outbox) is not None:
                request = pb.FetchRequest() if outbox.is_empty else next(outbox)
                read[name] = ([want.ticket for want in request.wants], list(request.cancelled))
        return read

    def hear(self, name: str) -> None:
        self.tracker.happened(self.endpoints[name], HEARD, self.now)

    def drain(self, name: str) -> None:
        self.tracker.happened(self.endpoints[name], Draining(), self.now)

    def asked(self, pending: PendingBatch) -> list[str]:
        """Where it is in flight."""
        return [name for name, endpoint in self.endpoints.items() if pending.ticket in endpoint.in_flight]

    def act(self) -> None:
        """Do what is left for after the lock."""
        while self.tracker.after:
            act = self.tracker.after.popleft()
            if isinstance(act, partial) and act.func == log.log:
                self.lines += [act.args[2]] if act.args[0] >= logging.WARNING else []
            else:
                act()

    def news(self) -> list[str]:
        """What was logged since this was last asked, from WARNING on."""
        self.act()
        lines, self.lines = self.lines, []
        return lines

    def look(self) -> float:
        again = self.tracker.look(self.now)
        self.act()
        return again

    def train(self, *names: str, batches: int = 20, answer_s: float = 0.1) -> None:
        """Let them answer so many, each after `answer_s`, so that something is known."""
        for _ in range(batches):
            wanted = self.want(len(names))
            self.now += answer_s
            for name in names:
                self.answer(name, *[one for one in wanted if name in self.asked(one)])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def two(clock: Clock) -> Clock:
    """Two loaders, a and b, that usually answer after 0.1 s: a key is late after 0.25 s, a loader silent after 0.3."""
    clock.join("a")
    clock.join("b")
    clock.train("a", "b")
    assert clock.tracker.lateness.late_after_s == 0.25
    assert clock.tracker.lateness.silent_after_s == pytest.approx(0.3)
    return clock


def one_each(clock: Clock, keys: int) -> tuple[list[PendingBatch], list[PendingBatch]]:
    """So many keys at each of a and b."""
    clock.want(2 * keys)
    assert (len(clock.owes("a")), len(clock.owes("b"))) == (keys, keys)
    return clock.owes("a"), clock.owes("b")


# ---- placing ----


def test_a_key_waits_until_a_loader_is_there(clock: Clock) -> None:
    (wanted,) = clock.want()
    assert clock.tracker.outstanding == 1

    clock.join("a")
    assert clock.owes("a") == [wanted]

    clock.answer("a", wanted)
    assert (wanted.outcome, clock.tracker.outstanding) == (BATCH, 0)


def test_no_loader_is_asked_for_more_than_it_lets_one_trainer_want(clock: Clock) -> None:
    clock.join("a", max_window=2)
    first, second, third = clock.want(3)
    assert clock.owes("a") == [first, second]

    clock.answer("a", first)

    assert clock.owes("a") == [second, third]


def test_a_key_stays_where_it_was_asked_while_the_loaders_open_their_streams(clock: Clock) -> None:
    """Found by two loaders that handed one key to each other for ever."""
    clock.join("a")
    clock.join("b")
    (wanted,) = clock.want()
    name = "a" if clock.owes("a") else "b"

    clock.join(name)

    assert clock.owes(name) == [wanted]
    assert clock.asked(wanted) == [name]
    assert clock.read()[name] == ([wanted.ticket], [])
    assert clock.tracker.counts.retried == 0


def test_a_key_that_was_cancelled_while_it_waited_is_not_asked_for(clock: Clock) -> None:
    cancelled, wanted = clock.want(2)
    clock.tracker.cancel(cancelled, clock.now)
    clock.tracker.cancel(cancelled, clock.now)

    clock.join("a")

    assert clock.owes("a") == [wanted]
    assert (clock.tracker.counts.wanted, clock.tracker.outstanding) == (2, 1)


def test_what_is_to_be_said_to_a_loader_is_flushed_after_the_lock(clock: Clock) -> None:
    clock.join("a")
    (outbox,) = [endpoint.outbox for endpoint in clock.endpoints.values()]
    clock.act()

    (wanted,) = clock.want()
    assert list(clock.tracker.after) == [outbox.flush]  # type: ignore[union-attr]
    clock.act()

    clock.tracker.cancel(wanted, clock.now)
    assert list(clock.tracker.after) == [outbox.flush]  # type: ignore[union-attr]


def test_readers_are_woken_by_what_may_end_their_wait_and_by_nothing_else(clock: Clock) -> None:
    clock.join("a")
    assert clock.calls["wake"] == 1
    first, second = clock.want(2)
    second.is_awaited = True

    clock.answer("a", first)
    assert clock.calls["wake"] == 1
    clock.answer("a", second)
    assert clock.calls["wake"] == 2
    clock.lose("a")
    assert clock.calls["wake"] == 3


def test_an_answer_counts_with_what_it_really_takes(clock: Clock) -> None:
    clock.join("a")
    (wanted,) = clock.want()

    clock.answer("a", wanted, outcome=Received(np.empty(0, np.uint8), Layout((), 5000)))

    assert wanted.nbytes == clock.tracker.counts.nbytes == 5000
    assert (clock.tracker.counts.answered, clock.endpoints["a"].answered, clock.endpoints["a"].nbytes) == (1, 1, 0)


# ---- what is learnt ----


def test_a_loader_is_as_fast_as_it_answers_while_it_owes_answers(clock: Clock) -> None:
    clock.join("a")
    clock.now += 60.0
    first, second = clock.want(2)

    clock.now += 0.1
    clock.answer("a", first)
    clock.now += 0.1
    clock.answer("a", second)

    assert clock.endpoints["a"].rate.bytes_per_s(clock.now) == pytest.approx(NBYTES / 0.1)


def test_nothing_is_learnt_of_errors(clock: Clock) -> None:
    clock.join("a")
    for _ in range(8):
        (wanted,) = clock.want()
        clock.now += 0.1
        clock.answer("a", wanted, outcome=BadSample("sample 3 is no image"))

    assert clock.endpoints["a"].rate.bytes_per_s(clock.now) is None
    assert (clock.tracker.lateness.late_after_s, clock.tracker.lateness.silent_after_s) == (2.0, 2.0)


def test_one_long_silence_is_one_measurement(clock: Clock) -> None:
    clock.join("a")
    clock.train("a", batches=1, answer_s=5.0)

    clock.train("a", batches=300)

    assert clock.tracker.lateness.silent_after_s == pytest.approx(0.3)


def test_the_first_answers_of_a_stream_that_was_made_anew_are_not_believed_one_by_one(clock: Clock) -> None:
    clock.join("a")
    clock.train("a")
    clock.lose("a")
    clock.now += 1.0
    clock.join("a")
    assert clock.endpoints["a"].heard_at == clock.now

    clock.train("a", batches=7, answer_s=0.5)

    assert clock.tracker.latency_s == pytest.approx(0.1)


# ---- loss ----


def test_the_keys_of_a_lost_loader_are_wanted_of_the_others_before_anything_else(two: Clock) -> None:
    of_a, of_b = one_each(two, 3)

    two.lose("a")

    assert two.owes("b") == [*of_b, *of_a]
    assert two.tracker.counts.retried == 3
    assert two.news() == ["lost a loader that had 3 batches to answer, reconnecting to a:1: reset by peer"]


@pytest.mark.parametrize(("reason", "broken"), [(LoaderUnavailable("reset by peer"), 3), (LoaderBusy("it is full"), 0)])
def test_only_a_connection_that_breaks_counts_as_one_that_breaks(
    clock: Clock, reason: FeedlineError, broken: int
) -> None:
    """One that the loader ends for a reason is not asked for less: it says why, and the next may be whole."""
    clock.join("a")
    clock.want(4)

    for _ in range(3):
        clock.lose("a", reason)
        clock.join("a")

    assert clock.endpoints["a"].broken == broken


def test_the_names_are_asked_when_a_loader_was_lost_that_had_been_there(clock: Clock) -> None:
    clock.add("a")
    clock.lose("a")
    clock.act()
    assert clock.calls["ask names"] == 0

    clock.join("a")
    clock.lose("a")
    clock.act()
    assert clock.calls["ask names"] == 1


def test_a_loss_is_told_unless_it_was_expected(clock: Clock) -> None:
    for name in ("a", "b"):
        clock.join(name)
        clock.train(name)
        clock.drain(name)
        clock.want(2 if name == "a" else 0)
    clock.lose("a")
    assert clock.news() == [], "it was draining and had answered all it owed"
    clock.join("a", replica="its successor")
    clock.train("a")
    clock.lose("a")
    assert clock.news() == ["lost a loader that had 0 batches to answer, reconnecting to a:1: reset by peer"]
    clock.join("a", replica="the next one")
    clock.train("a")
    clock.want()
    clock.drain("a")
    clock.lose("a")
    assert clock.news() == ["lost a loader that had 1 batches to answer, reconnecting to a:1: reset by peer"]


def test_damage_is_counted_and_told_also_of_a_loader_that_never_answered(clock: Clock) -> None:
    clock.join("a")

    clock.lose("a", Damaged("a:1: a message is not what was sent"))

    assert clock.tracker.counts.damaged == 1
    assert clock.news() == [
        "lost a loader that had 0 batches to answer, reconnecting to a:1: a message is not what was sent"
    ]


def test_the_keys_of_all_wait_for_whoever_comes_back_first(two: Clock) -> None:
    of_a, of_b = one_each(two, 2)
    two.lose("a")
    two.lose("b")
    assert two.tracker.outstanding == 4

    two.join("b")

    assert {one.ticket for one in two.owes("b")} == {one.ticket for one in [*of_a, *of_b]}


def test_a_draining_loader_gets_no_new_key_and_what_it_has_is_wanted_elsewhere_at_once(two: Clock) -> None:
    of_a, of_b = one_each(two, 3)

    two.drain("a")

    assert two.owes("a") == of_a
    assert two.owes("b") == [*of_b, *of_a]
    assert two.want()[0] in two.owes("b")
    two.read()
    two.answer("a", of_a[0])
    assert of_a[0].outcome is BATCH
    assert two.read()["b"] == ([], [of_a[0].ticket])
    two.lose("a")
    assert two.tracker.counts.retried == 0, "every key has been asked of the other already"


def test_a_loader_that_said_it_is_going_away_is_not_asked_again_until_another_has_its_place(two: Clock) -> None:
    two.drain("a")
    two.lose("a")

    assert isinstance(two.join("a"), LoaderDraining)
    assert two.join("a", replica="its successor") is None


def test_the_keys_of_a_draining_loader_wait_for_one_that_joins(clock: Clock) -> None:
    clock.join("a")
    wanted = clock.want(2)
    clock.drain("a")
    clock.add("b")

    clock.join("b")

    assert clock.owes("b") == wanted


# ---- late ----


def test_a_late_key_is_asked_of_a_second_loader_and_the_first_answer_wins(two: Clock) -> None:
    (late, *rest_a), of_b = one_each(two, 3)
    two.now += 0.2
    two.answer("a", *rest_a)
    two.answer("b", *of_b)
    two.read()

    two.now += 0.06
    two.look()
    assert two.read() == {"a": ([], []), "b": ([late.ticket], [])}
    assert two.tracker.counts.hedged == 1

    two.answer("b", late)
    assert late.outcome is BATCH
    assert two.read() == {"a": ([], [late.ticket]), "b": ([], [])}
    assert two.tracker.outstanding == 0


def test_a_key_is_asked_of_two_loaders_and_not_of_three(two: Clock) -> None:
    two.join("c")
    two.train("a", "b", "c")
    (wanted,) = two.want()
    for _ in range(100):
        two.now += 0.1
        two.look()

    assert wanted.asked == 2


def test_late_keys_are_not_asked_again_where_everybody_is_silent(two: Clock) -> None:
    """The disk that both read from may be slow: asking twice as much of it helps nobody."""
    one_each(two, 3)
    for _ in range(100):
        two.now += 0.1
        two.look()

    assert two.tracker.counts.hedged == 0


def test_an_answer_that_comes_second_is_counted_and_dropped(two: Clock) -> None:
    (wanted,) = two.want()
    first = two.endpoints["a"] if two.owes("a") else two.endpoints["b"]
    other = "b" if first is two.endpoints["a"] else "a"
    first_name = "a" if other == "b" else "b"
    two.now += 0.3
    two.look()
    assert wanted.asked == 2
    two.hear(first_name)
    two.answer(other, wanted)

    first.note_duplicate(wanted.ticket)
    first.note_duplicate(wanted.ticket)
    two.answer(first_name, wanted)

    assert first.duplicates == 1
    assert two.tracker.counts.answered == 41


def test_the_answer_of_a_loader_that_was_told_not_to_is_a_duplicate(two: Clock) -> None:
    (wanted,) = two.want()
    (first,) = two.asked(wanted)
    two.now += 0.26
    two.look()
    (other,) = set(two.asked(wanted)) - {first}
    two.answer(other, wanted)

    two.answer(first, wanted)

    assert [two.endpoints[name].duplicates for name in (first, other)] == [1, 0]
    assert two.tracker.counts.answered == 41


def test_what_is_late_is_looked_after_while_keys_are_wanted_but_not_at_each(two: Clock) -> None:
    (late,) = two.want()
    (other,) = {"a", "b"} - set(two.asked(late))
    two.now += 0.245
    two.look()
    two.hear(other)

    two.now += 0.01
    two.want()
    assert two.tracker.counts.hedged == 0

    two.now += 0.02
    two.want()
    assert two.tracker.counts.hedged == 1


def test_what_is_late_is_looked_after_each_20_ms_at_most(clock: Clock) -> None:
    clock.now = 0.0
    clock.look()
    looks: list[float] = []
    clock.tracker.look = looks.append  # type: ignore[method-assign, assignment]

    for clock.now in (0.0, 0.01, 0.02):
        clock.want()

    assert looks == [0.02]


def test_a_reader_looks_again_when_a_key_gets_late_or_its_loader_silent(two: Clock) -> None:
    began = two.now
    (first,) = two.want()
    two.now = began + 0.1
    assert two.look() == pytest.approx(began + 0.25)

    (name,) = two.asked(first)
    (other,) = {"a", "b"} - {name}
    two.now = began + 0.2
    two.hear(other)
    two.want(2)
    assert (len(two.owes(name)), len(two.owes(other))) == (2, 1)
    two.now = began + 0.26
    assert two.look() == pytest.approx(began + 0.3), "the second key there is late at 0.45"
    assert first.asked == 2
    two.now = began + 0.31
    assert two.look() == pytest.approx(began + 0.36), "this process itself may have stood still"


def test_a_reader_looks_again_when_a_silent_loader_counts_as_stalled_if_too_much_was_asked_twice(two: Clock) -> None:
    began = two.now
    one_each(two, 1)
    while two.tracker._budget.spend():
        pass
    two.now = began + 0.35
    two.hear("b")
    two.look()

    two.now = began + 0.45
    assert two.look() == pytest.approx(began + 1.0)
    assert two.tracker.counts.hedged == 0

    two.now = began + 1.01
    two.hear("b")
    two.look()
    assert two.tracker.counts.hedged == 1


def test_a_loader_that_was_silent_for_just_as_long_as_it_may_be_is_not_silent(clock: Clock) -> None:
    clock.now = 2000.0
    clock.join("a")
    clock.join("b")
    of_a, _ = one_each(clock, 1)
    clock.now = 2001.0
    (later,) = clock.want()
    assert clock.asked(later) == ["a"]
    clock.now = 2001.5
    clock.hear("b")

    clock.now = 2002.0
    assert clock.look() == 2002.0, "from now on it may be"
    assert clock.asked(*of_a) == ["a", "b"]
    clock.answer("b", *of_a)
    assert (clock.owes("a"), clock.endpoints["a"].in_vain) == ([later], 0)


def test_a_loader_counts_as_stalled_after_more_than_a_second(two: Clock) -> None:
    two.now = 2000.0
    one_each(two, 1)
    while two.tracker._budget.spend():
        pass
    for two.now in (2000.5, 2001.0):
        two.hear("b")
        assert two.look() == 2001.0
    assert two.tracker.counts.hedged == 0

    two.now = 2001.0625
    two.look()
    assert two.tracker.counts.hedged == 1


def test_a_reader_looks_again_soon_when_this_process_stood_still_and_too_much_was_asked_twice(two: Clock) -> None:
    two.want()
    while two.tracker._budget.spend():
        pass

    two.now += 5.0

    assert two.look() == pytest.approx(two.now + 0.05)
    assert two.tracker.counts.hedged == 0


# ---- silent ----


def let_a_be_silent(clock: Clock, of_b: list[PendingBatch], seconds: float, every_s: float = 0.05) -> None:
    """b answers one key each 0.05 s, and a nothing."""
    until = clock.now + seconds
    while clock.now < until:
        clock.now += every_s
        if of_b:
            clock.answer("b", of_b.pop(0))
        else:
            clock.hear("b")
            clock.look()


def test_all_keys_of_a_silent_loader_are_wanted_elsewhere_after_the_learnt_time(two: Clock) -> None:
    of_a, of_b = one_each(two, 8)

    let_a_be_silent(two, of_b, 0.45)

    assert all("b" in two.asked(one) for one in of_a)
    assert two.tracker.counts.hedged == 8


def test_a_silent_loader_gets_no_new_keys(two: Clock) -> None:
    _, of_b = one_each(two, 8)
    let_a_be_silent(two, of_b, 0.45)
    before = len(two.owes("a"))

    two.want(10)

    assert len(two.owes("a")) == before


def test_a_silent_loader_is_used_again_as_soon_as_it_gives_a_sign_of_life(two: Clock) -> None:
    """It keeps the keys that another has answered: told to drop them, it would have no reason to say a word again."""
    of_a, of_b = one_each(two, 3)
    let_a_be_silent(two, of_b, 0.45)
    two.answer("b", *of_a)
    a = two.endpoints["a"]
    assert (len(a.in_flight), a.in_vain, two.tracker.outstanding) == (3, 3, 0)
    two.train("b")
    assert a.asked == 23
    two.read()

    two.hear("a")

    assert (len(a.in_flight), a.in_vain) == (0, 0)
    assert two.read()["a"] == ([], [one.ticket for one in of_a])
    two.train("a", "b")
    assert a.asked > 23


def test_more_than_a_window_is_asked_twice_only_of_a_loader_that_is_silent_for_a_second(two: Clock) -> None:
    of_a, of_b = one_each(two, 100)

    let_a_be_silent(two, of_b, 0.9)
    assert two.tracker.counts.hedged == 64

    two.want(16)
    let_a_be_silent(two, of_b, 0.05)
    assert two.tracker.counts.hedged == 65, "one of sixteen, all the time"

    let_a_be_silent(two, of_b, 0.3)
    assert two.tracker.counts.hedged == 100
    assert all(one.asked == 2 for one in of_a)


def test_a_trainer_that_stood_still_itself_takes_no_loader_for_silent(two: Clock) -> None:
    """After a pause of the whole process every loader looks silent until its own thread has run."""
    of_a, of_b = one_each(two, 2)

    two.now += 5.0
    two.look()
    assert two.tracker.counts.hedged == 0
    two.now += 0.025  # nobody looks again sooner
    two.answer("b", *of_b)
    assert two.tracker.counts.hedged == 2, "what is late may be asked again, within the budget"
    two.answer("a", *of_a)

    assert all(one.outcome is BATCH for one in [*of_a, *of_b])
    assert two.endpoints["a"].suspected_at is None


# ---- stuck ----


def renewals(clock: Clock, name: str) -> list[str]:
    """Why the stream of a loader was given up, each time."""
    reasons: list[str] = []
    clock.endpoints[name].connection.renew = reasons.append  # type: ignore[method-assign]
    return reasons


def test_a_stream_on_which_nothing_comes_is_made_anew_also_where_there_is_no_other_loader(clock: Clock) -> None:
    """One bit that was changed in the head of an HTTP/2 frame leaves it waiting although the connection lives."""
    clock.join("a")
    clock.train("a")
    reasons = renewals(clock, "a")
    (wanted,) = clock.want()

    assert clock.look() == clock.now + 10
    clock.now += 9.9
    clock.look()
    assert reasons == []
    clock.now += 0.2
    assert clock.look() == pytest.approx(clock.now + 0.05), "it may be this process that stood still"
    clock.now += 0.1
    clock.look()

    assert reasons == ["nothing came for 10 s although the connection stands"]
    clock.lose("a")
    clock.join("a")
    assert clock.owes("a") == [wanted]


def test_a_stream_is_made_anew_after_just_ten_seconds_if_its_loader_is_found_silent_twice(clock: Clock) -> None:
    clock.join("a")
    clock.train("a")
    clock.now = 2000.0
    reasons = renewals(clock, "a")
    clock.want()

    clock.now = 2010.0
    assert clock.look() == 2010.05
    clock.now = 2010.25
    assert clock.look() > 3000
    assert len(reasons) == 1


def look_for(clock: Clock, seconds: int) -> None:
    """So long, looking ten times a second."""
    for _ in range(10 * seconds):
        clock.now += 0.1
        clock.look()


def test_a_loader_that_is_that_slow_gets_twice_the_time_each_time_until_it_gives_a_sign_of_life(clock: Clock) -> None:
    clock.join("a")
    clock.train("a")
    reasons = renewals(clock, "a")
    clock.want()
    look_for(clock, 11)
    assert len(reasons) == 1
    clock.lose("a")
    clock.join("a")

    look_for(clock, 19)
    assert len(reasons) == 1
    look_for(clock, 2)
    assert len(reasons) == 2

    clock.hear("a")
    assert clock.endpoints["a"].renewed == 0


def test_a_loader_of_which_nothing_is_known_is_given_half_a_minute(clock: Clock) -> None:
    clock.join("a")
    reasons = renewals(clock, "a")
    clock.want()

    look_for(clock, 29)
    assert reasons == []
    look_for(clock, 2)
    assert len(reasons) == 1


def test_a_loader_that_usually_takes_long_is_given_longer(clock: Clock) -> None:
    clock.join("a")
    clock.train("a", answer_s=5.0)
    reasons = renewals(clock, "a")
    clock.want()

    look_for(clock, 59)  # it is silent after three times what is usual, and stuck after four times that
    assert reasons == []
    look_for(clock, 2)
    assert len(reasons) == 1


# ---- refusals ----


def test_a_loader_that_refuses_a_trainer_which_another_let_in_is_named_and_tried_again(two: Clock) -> None:
    """A token that is replaced reaches one side before the other, and a loader that is added may be the first."""
    two.add("c")

    two.lose("c", NotAllowed("the loader at c:1 does not know the token"))

    c = two.endpoints["c"]
    assert isinstance(c.reason, LoaderUnavailable)
    assert two.news() == [
        "going on without one of 3 loaders: the loader at c:1 does not know the token (a loader let this trainer in "
        "before, so this is tried again)"
    ]
    two.lose("a", NotAllowed("does not know the token"))
    two.lose("b", NotTrusted("no authority has signed it"))
    (wanted,) = two.want()
    assert wanted.outcome is None
    two.join("c")
    assert two.owes("c") == [wanted]


def test_a_refusal_before_anybody_let_this_trainer_in_is_final(clock: Clock) -> None:
    clock.add("a")

    clock.lose("a", refusal := NotAllowed("the loader at a:1 does not know the token"))

    assert clock.endpoints["a"].reason is refusal
    assert clock.want()[0].outcome is refusal


def test_a_key_that_a_loader_cannot_answer_is_asked_of_another_and_the_last_refusal_is_told(two: Clock) -> None:
    (wanted,) = two.want()
    first, other = ("a", "b") if two.owes("a") else ("b", "a")

    two.answer(first, wanted, outcome=BadSample("the disk is gone", elsewhere=True))
    assert two.owes(other) == [wanted]
    assert two.tracker.counts.retried == 1

    gone = BadSample("the disk is gone", elsewhere=True)
    two.answer(other, wanted, outcome=gone)
    assert wanted.outcome is gone


def test_an_error_that_another_loader_would_repeat_is_the_outcome(two: Clock) -> None:
    (wanted,) = two.want()
    bad = BadSample("sample 3 is no image")

    two.answer("a" if two.owes("a") else "b", wanted, outcome=bad)

    assert wanted.outcome is bad


def test_a_key_that_nobody_has_room_for_is_asked_for_again_after_a_pause(two: Clock) -> None:
    (wanted,) = two.want()
    for _ in range(2):
        name = "a" if two.owes("a") else "b"
        two.answer(name, wanted, outcome=LoaderBusy("no room", elsewhere=True))
    assert wanted.outcome is None
    assert wanted.asked == 0

    two.now += 0.4
    assert two.look() == pytest.approx(two.now + 0.1)
    assert wanted.asked == 0
    two.now += 0.2
    two.look()
    assert wanted.asked == 1


def refuse(clock: Clock, wanted: PendingBatch) -> list[str]:
    """All loaders have no room for a key, one after the other; their names."""
    names = []
    while clock.asked(wanted):
        names += clock.asked(wanted)
        clock.answer(names[-1], wanted, outcome=LoaderBusy("no room", elsewhere=True))
    return names


def test_a_key_that_was_refused_is_asked_for_again_after_just_that_pause_whatever_came_later(two: Clock) -> None:
    two.now = 2000.0
    first, second = two.want(2)
    assert len(refuse(two, first)) == 2
    two.now = 2000.25
    assert len(refuse(two, second)) == 2

    assert two.look() == 2000.5
    two.now = 2000.5
    two.look()
    assert (first.asked, second.asked) == (1, 0)


def test_a_key_whose_second_loader_was_lost_may_be_asked_of_the_first_again(two: Clock) -> None:
    """What refused it for want of room is all there is now."""
    (wanted,) = two.want()
    (first,) = two.asked(wanted)
    two.answer(first, wanted, outcome=LoaderBusy("no room", elsewhere=True))
    (second,) = two.asked(wanted)

    two.lose(second)

    assert two.asked(wanted) == [first]


def test_a_loader_that_returns_may_be_asked_at_once_for_what_it_refused_before(two: Clock) -> None:
    (wanted,) = two.want()
    refuse(two, wanted)
    two.lose("a")
    assert two.asked(wanted) == []

    two.join("a")

    assert two.asked(wanted) == ["a"]


def test_a_key_that_was_refused_by_loaders_that_are_gone_is_not_looked_after_until_one_is_there(two: Clock) -> None:
    (wanted,) = two.want()
    for name in refuse(two, wanted):
        two.lose(name)

    two.now += 0.6
    assert two.look() > two.now + 60

    two.join("b")
    assert two.asked(wanted) == ["b"]


def test_a_refusal_is_forgotten_with_its_key(two: Clock) -> None:
    (wanted,) = two.want()
    (first,) = two.asked(wanted)
    two.answer(first, wanted, outcome=LoaderBusy("no room", elsewhere=True))
    assert two.endpoints[first].refused == {wanted.ticket}

    two.answer(*two.asked(wanted), wanted)

    assert two.endpoints[first].refused == set()


def test_the_only_loader_is_not_named_as_one_to_go_on_without(clock: Clock) -> None:
    clock.join("a", fingerprint=b"\xfe")

    assert isinstance(clock.want()[0].outcome, DatasetChanged)

    assert clock.news() == []


def test_a_loader_is_named_when_something_else_is_wanted_than_what_it_has(clock: Clock) -> None:
    clock.join("a", fingerprint=b"\x01")
    clock.join("b", fingerprint=b"\x02")
    assert clock.news() == []

    clock.want()
    (line,) = clock.news()
    assert line.startswith("going on without one of 2 loaders: the loader at b:1 now has the fingerprint 02")
    clock.want()
    assert clock.news() == []

    clock.want(fingerprint=b"\x02")
    (line,) = clock.news()
    assert line.startswith("going on without one of 2 loaders: the loader at a:1 now has the fingerprint 01")


def test_a_loader_with_other_data_is_named_once_and_the_others_go_on(two: Clock) -> None:
    two.lose("a")
    two.news()

    for _ in range(3):
        two.join("a", fingerprint=b"\xfe")
        two.lose("a")

    assert [line.partition(";")[0] for line in two.news()] == [
        "going on without one of 2 loaders: the loader at a:1 now has the fingerprint fe for 'voxels'"
    ]
    assert two.want()[0] in two.owes("b")
    two.lose("b", ProtocolMismatch("speaks version 2"))
    two.join("a", fingerprint=b"\xfe")
    assert isinstance(two.want()[0].outcome, DatasetChanged)


# ---- two ways to one loader ----


def test_a_loader_that_is_late_is_not_reached_by_a_second_way_as_well(clock: Clock) -> None:
    """`localhost` is two addresses. Deferred is no reason to ask one loader on both; stuck is."""
    clock.join("127.0.0.1", replica="r1")
    clock.train("127.0.0.1")
    clock.want()

    look_for(clock, 9)
    assert isinstance(clock.join("[::1]", replica="r1"), SameLoader)
    look_for(clock, 2)
    assert clock.join("[::1]", replica="r1") is None


def test_a_second_connection_to_one_loader_waits_until_the_first_is_lost(clock: Clock) -> None:
    clock.join("127.0.0.1", replica="r1")
    same = clock.join("[::1]", replica="r1")
    assert isinstance(same, SameLoader)
    clock.lose("[::1]", same)
    assert clock.endpoints["[::1]"].state is State.SAME_LOADER

    clock.lose("127.0.0.1")

    clock.act()
    assert clock.endpoints["[::1]"].connection._again.is_set()
    assert clock.join("[::1]", replica="r1") is None


# ---- who belongs to it ----


def test_a_loader_that_the_target_no_longer_names_is_left_when_it_owes_nothing(two: Clock) -> None:
    of_a, _ = one_each(two, 2)
    two.tracker.name(["b:1"], two.now)
    two.now += 9.0
    two.tracker.name(["b:1"], two.now)
    assert two.endpoints["a"].state is State.CONNECTED, "one answer of a name server is not believed"

    two.now += 1.0
    two.tracker.name(["b:1"], two.now)
    assert two.endpoints["a"].state is State.LEAVING
    assert two.want()[0] in two.owes("b")

    two.answer("a", *of_a)
    assert two.endpoints["a"].state is State.LEFT
    assert two.tracker.endpoints == (two.endpoints["b"],)


def test_a_loader_that_owes_nothing_and_is_named_no_longer_is_left_and_closed(two: Clock) -> None:
    two.tracker.name(["b:1"], two.now)
    two.endpoints["a"].duplicates = 3
    two.now += 10.0

    two.tracker.name(["b:1"], two.now)

    assert two.endpoints["a"].state is State.LEFT
    assert two.tracker.counts.duplicates == 3
    assert two.news() == ["left the loader at a:1: the target no longer names it"]
    assert two.endpoints["a"].connection._closing.is_set()
    assert not two.endpoints["b"].connection._closing.is_set()


@pytest.mark.parametrize("reason", [None, LoaderUnavailable("refused"), ProtocolMismatch("version 2")])
def test_a_loader_that_is_not_connected_and_named_no_longer_is_left(two: Clock, reason: FeedlineError | None) -> None:
    gone = two.add("gone")
    if reason is not None:
        two.lose("gone", reason)

    for _ in range(2):
        two.tracker.name(["a:1", "b:1"], two.now)
        two.now += 10.0

    assert gone.state is State.LEFT
    assert gone not in two.tracker.endpoints


def test_a_loader_that_is_named_again_while_it_leaves_gets_keys_again(two: Clock) -> None:
    one_each(two, 1)
    two.tracker.name(["b:1"], two.now)
    two.now += 10.0
    two.tracker.name(["b:1"], two.now)
    assert two.endpoints["a"].state is State.LEAVING

    two.tracker.name(["a:1", "b:1"], two.now)

    assert two.endpoints["a"].state is State.CONNECTED
    one_each_more = two.want(2)
    assert any(one in two.owes("a") for one in one_each_more)


def test_a_loader_that_is_named_again_stays(two: Clock) -> None:
    two.tracker.name(["b:1"], two.now)
    two.now += 9.0
    two.tracker.name(["a:1", "b:1"], two.now)
    two.now += 9.0
    two.tracker.name(["b:1"], two.now)

    assert two.endpoints["a"].state is State.CONNECTED


def test_a_loader_that_is_not_named_and_not_there_is_left_with_its_keys_wanted_elsewhere(two: Clock) -> None:
    of_a, _ = one_each(two, 2)
    two.tracker.name(["b:1"], two.now)
    two.now += 10.0
    two.tracker.name(["b:1"], two.now)

    two.lose("a")

    assert two.endpoints["a"].state is State.LEFT
    assert all(one in two.owes("b") for one in of_a)


# ---- cancelled ----


def test_a_cancelled_key_is_withdrawn_from_everybody_who_was_asked(two: Clock) -> None:
    (wanted,) = two.want()
    two.now += 0.3
    two.look()
    assert wanted.asked == 2

    two.tracker.cancel(wanted, two.now)

    assert isinstance(wanted.outcome, Closed)
    assert two.tracker.outstanding == 0
    assert all(not endpoint.in_flight and not endpoint.nbytes for endpoint in two.tracker.endpoints)
    assert all(not endpoint.superseded for endpoint in two.tracker.endpoints)


def test_of_many_loaders_the_way_is_known_before_each_of_them_has_answered_eight_times(clock: Clock) -> None:
    """A reader of 16 slow loaders read 16 batches ahead for its first 128 batches, one for each loader."""
    for number in range(16):
        clock.join(str(number))
    for taken_s, known in ((0.2, None), (0.05, 0.05)):
        wanted = clock.want(7 if known is None else 1)
        clock.now += taken_s
        for one in wanted:
            clock.answer(clock.asked(one)[0], one)
        assert clock.tracker.latency_s == (None if known is None else pytest.approx(known))

    clock.train(*map(str, range(16)), answer_s=0.1)

    assert clock.tracker.latency_s == pytest.approx(0.1), "what is known of one goes before what all may be"


def test_the_longest_way_is_what_decides_how_far_ahead_is_asked(clock: Clock) -> None:
    clock.join("near")
    clock.train("near", answer_s=0.01)
    assert clock.tracker.latency_s == pytest.approx(0.01)

    clock.join("far")
    while clock.endpoints["far"].answered < 8:
        wanted = clock.want(2)
        clock.now += 0.01
        clock.answer("near", *[one for one in wanted if clock.asked(one) == ["near"]])
        clock.now += 0.03
        clock.answer("far", *[one for one in wanted if clock.asked(one) == ["far"]])

    assert clock.tracker.latency_s == pytest.approx(0.04)
    clock.lose("far")
    assert clock.tracker.latency_s == pytest.approx(0.01)
