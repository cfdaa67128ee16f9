"""Which versions two peers speak with one another, which features they use, and which of them is to be updated."""

import tomllib
from pathlib import Path

import pytest

from feedline_wire import PROTOCOL, VERSION, versions
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import ProtocolMismatch
from feedline_wire.versions import Agreement, Peer, agree, first_release, here, read


def trainer(oldest: int, newest: int, *features: str) -> Peer:
    return Peer("trainer", "this trainer", "0.5.0", oldest, newest, frozenset(features))


def loader(oldest: int, newest: int, *features: str) -> Peer:
    return Peer("loader", "the loader at a:1", "0.7.1", oldest, newest, frozenset(features))


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        ((3, 3), (3, 3), 3),
        ((3, 4), (4, 5), 4),
        ((4, 5), (3, 4), 4),
        ((3, 9), (5, 6), 6),
        ((5, 6), (3, 9), 6),
        ((3, 3), (1, 3), 3),
    ],
)
def test_peers_speak_the_newest_version_that_both_speak(
    ours: tuple[int, int], theirs: tuple[int, int], agreed: int
) -> None:
    assert agree(trainer(*ours), loader(*theirs)).protocol == agreed


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (
            (3, 4),
            (5, 6),
            "the loader at a:1 (feedline 0.7.1) speaks versions 5 to 6 of feedline's protocol, "
            "this trainer (feedline 0.5.0) speaks versions 3 to 4: update feedline in the trainer",
        ),
        (
            (5, 5),
            (3, 4),
            "the loader at a:1 (feedline 0.7.1) speaks versions 3 to 4 of feedline's protocol, "
            "this trainer (feedline 0.5.0) speaks version 5: update feedline in the loader",
        ),
    ],
    ids=["newer", "older"],
)
def test_peers_without_a_version_in_common_are_told_both_and_the_side_to_update(
    ours: tuple[int, int], theirs: tuple[int, int], words: str
) -> None:
    with pytest.raises(ProtocolMismatch) as mismatch:
        agree(trainer(*ours), loader(*theirs))

    assert str(mismatch.value) == words


def test_a_loader_tells_the_same_of_its_trainer() -> None:
    with pytest.raises(
        ProtocolMismatch, match=r"this trainer .* version 3 .* the loader .* version 4: update .* in the trainer"
    ):
        agree(loader(4, 4), trainer(3, 3))


@pytest.mark.parametrize(("oldest", "newest"), [(0, 0), (4, 3), (0, 3), (2**32 - 1, 3)])
def test_a_peer_whose_range_is_none_is_refused(oldest: int, newest: int) -> None:
    with pytest.raises(
        ProtocolMismatch, match=f"versions {oldest} to {newest} of feedline's protocol, which is no range"
    ):
        agree(trainer(3, 3), loader(oldest, newest))


def test_only_features_that_both_have_are_used() -> None:
    ours, theirs = trainer(3, 3, "checksum", "compression"), loader(3, 3, "checksum", "thought reading")

    assert agree(ours, theirs) == Agreement(3, frozenset({"checksum"}))


@pytest.mark.parametrize("message", [pb.DescribeRequest, pb.Description, pb.FetchRequest])
def test_what_a_side_speaks_arrives_as_it_was_said(message: type) -> None:
    ours = Peer("loader", "it", "0.2.0", 3, 5, frozenset({"checksum", "b"}))

    assert read(message.FromString(message(**ours.fields()).SerializeToString()), "loader", "it") == ours


def test_a_peer_that_says_one_version_speaks_that_alone() -> None:
    assert read(pb.Description(protocol=7), "loader", "it") == Peer("loader", "it", "", 7, 7, frozenset())


def test_a_trainer_of_the_first_release_is_named_by_it() -> None:
    """It says version 2 and nothing else."""
    theirs = read(pb.FetchRequest(protocol=2), "trainer", "the trainer")

    with pytest.raises(
        ProtocolMismatch, match=r"the trainer \(feedline 0\.1\) speaks version 2 .* update .* in the trainer"
    ):
        agree(here("loader"), theirs)


def test_a_loader_of_the_first_release_is_named_by_it() -> None:
    with pytest.raises(
        ProtocolMismatch, match=r"the loader at a:1 \(feedline 0\.1\) speaks version 2 .* in the loader"
    ):
        agree(here("trainer"), first_release("loader", "the loader at a:1"))


def test_both_sides_of_this_release_speak_the_same() -> None:
    agreement = agree(here("trainer"), here("loader"))

    assert agreement == Agreement(PROTOCOL, versions.FEATURES)


def test_the_version_that_is_said_is_the_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    assert project["version"] == VERSION
