"""An error that travels arrives as itself."""

import pickle
from collections.abc import Callable

import pytest

from feedline_wire import errors
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import FeedlineError
from feedline_wire.lane import MAX_PIECE_NBYTES

TRAVELLING = [
    errors.FeedlineError,
    errors.InvalidRequest,
    errors.NotAllowed,
    errors.DataError,
    errors.BadSample,
    errors.BatchKillsWorkers,
    errors.DatasetChanged,
    errors.LoaderUnavailable,
    errors.LoaderStalled,
    errors.LoaderBusy,
    errors.LoaderStarting,
    errors.NoLoaderHere,
    errors.LoaderDraining,
    errors.Damaged,
    errors.ProtocolMismatch,
    errors.LoaderBroken,
]


Travel = Callable[[FeedlineError], FeedlineError]


def over_the_wire(error: FeedlineError) -> FeedlineError:
    return errors.from_failure(pb.Failure.FromString(errors.to_failure(error).SerializeToString()))


def through_pickle(error: FeedlineError) -> FeedlineError:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("travel", [over_the_wire, through_pickle])
@pytest.mark.parametrize("kind", TRAVELLING)
def test_an_error_arrives_with_everything_it_carries(kind: type[FeedlineError], travel: Travel) -> None:
    sent = kind("sample 7 is no image", traceback="Traceback: …", samples=[7, 9], elsewhere=True)

    arrived = travel(sent)

    assert type(arrived) is kind
    assert arrived.args == ("sample 7 is no image",)
    assert arrived.traceback == "Traceback: …"
    assert arrived.samples == (7, 9)
    assert arrived.elsewhere is True
    assert str(arrived) == "sample 7 is no image\n\nIn the loader's worker:\nTraceback: …"


@pytest.mark.parametrize("travel", [over_the_wire, through_pickle])
def test_an_error_that_carries_nothing_is_its_message(travel: Travel) -> None:
    arrived = travel(errors.LoaderStalled("no batch for 30 s"))

    assert str(arrived) == "no batch for 30 s"
    assert (arrived.traceback, arrived.samples, arrived.elsewhere) == ("", (), False)


def test_every_error_there_is_travels_but_those_of_this_side() -> None:
    """`Closed` is about an object here, `NotTrusted` is what this side thinks of the loader.

    A new kind that is missing in the table would arrive as a stranger.
    """
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FeedlineError)}

    assert kinds == {*TRAVELLING, errors.Closed, errors.NotTrusted}


@pytest.mark.parametrize("wire", [b"\xff", b"\x0a\x05abc", b"\x0a\x01\xff"])
def test_bytes_that_are_no_failure_are_a_mismatch_and_not_a_fault_of_ours(wire: bytes) -> None:
    arrived = errors.read_failure(wire)

    assert type(arrived) is errors.ProtocolMismatch
    assert str(arrived) == f"{len(wire)} bytes stand where a failure belongs and are none"


def test_a_kind_of_a_later_version_arrives_with_its_name() -> None:
    arrived = errors.from_failure(pb.Failure(kind="LoaderOnFire", message="call somebody", elsewhere=True))

    assert type(arrived) is FeedlineError
    assert str(arrived) == "LoaderOnFire: call somebody"
    assert arrived.elsewhere is True


def test_a_kind_never_names_anything_but_an_error() -> None:
    arrived = errors.from_failure(pb.Failure(kind="SystemExit", message="0"))

    assert type(arrived) is FeedlineError


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InvalidRequest, ValueError),
        (errors.Closed, RuntimeError),
        (errors.LoaderUnavailable, ConnectionError),
        (errors.LoaderStalled, TimeoutError),
    ],
)
def test_an_error_is_caught_by_the_builtin_a_user_would_name(
    kind: type[FeedlineError], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin):
        raise kind("found, wanted, change this")


def test_an_error_names_sixteen_samples_at_most() -> None:
    assert errors.BadSample("many", samples=range(100)).samples == tuple(range(16))


def test_a_message_with_a_file_name_that_is_not_utf8_still_travels() -> None:
    """Such names are read with lone surrogates, which protobuf refuses: the failure itself would fail."""
    arrived = over_the_wire(errors.BadSample("cannot read scan\udcff.npy", traceback="open('scan\udcff.npy')"))

    assert arrived.args == ("cannot read scan\\udcff.npy",)
    assert arrived.traceback == "open('scan\\udcff.npy')"


# ---- long texts ----


@pytest.mark.parametrize("travel", [over_the_wire, through_pickle])
def test_long_texts_are_cut_to_their_ends_which_say_so(travel: Travel) -> None:
    long = "begin" + "x" * 1_000_000 + "end"

    made = errors.BadSample(long, traceback=long)
    arrived = travel(travel(made))

    [message] = arrived.args
    assert message == arrived.traceback
    assert message == "begin" + "x" * 8187 + "\n[… 983,624 characters are left out here …]\n" + "x" * 8189 + "end"


def test_a_text_that_is_hardly_longer_is_left_whole() -> None:
    text = "x" * (2 * 8192 + 256)

    assert errors.BadSample(text).args == (text,)
    assert len(errors.BadSample(text + "x").args[0]) < len(text)


def test_the_longest_error_is_short_enough_for_a_lane_whatever_its_letters_are() -> None:
    made = errors.BadSample("\udcff" * 1_000_000, traceback="\U0001f600" * 1_000_000, samples=range(1000))

    assert len(errors.to_failure(made).SerializeToString()) < MAX_PIECE_NBYTES
