"""Which version of a dataset a trainer begins with."""

import pytest

from feedline.connection.description import DatasetInfo, Description
from feedline.fleet.agreement import agreed
from feedline_wire.errors import DatasetChanged


def info(name: str, version: str, samples: int = 100) -> DatasetInfo:
    return DatasetInfo(name, bytes.fromhex(version * 8), samples, (), (), {"train": samples}, ("shuffle",))


def loader(*versions: str, name: str = "d", **others: str) -> Description:
    """One that serves these versions, the newest first, and one version of each of the others."""
    newest, *older = (info(name, version) for version in versions)
    datasets = {name: newest, **{other: info(other, version) for other, version in others.items()}}
    return Description("v", "r", datasets, 1 << 20, 9, older={name: tuple(older)} if older else {})


@pytest.mark.parametrize(
    ("loaders", "version"),
    [
        ([loader("a1")], "a1"),
        ([loader("b2", "a1")], "b2"),
        ([loader("b2", "a1"), loader("a1")], "a1"),  # the second was not reloaded yet
        ([loader("a1"), loader("b2", "a1")], "a1"),
        ([loader("c3", "b2", "a1"), loader("b2", "a1")], "b2"),
        ([loader("a1", "b2"), loader("b2", "a1")], "a1"),  # neither is newer: all trainers take the same
        ([loader("b2", "a1"), loader("a1", "b2")], "a1"),
        ([loader("b2"), loader("b2", "a1"), loader("c3", "b2")], "b2"),
    ],
)
def test_it_is_the_newest_that_all_serve(loaders: list[Description], version: str) -> None:
    found = agreed([(f"l:{number}", one) for number, one in enumerate(loaders)], None)

    assert found.datasets["d"].fingerprint.hex() == version * 8
    assert found.disagreed == {}
    first = loaders[0]
    assert found.older == {"d": tuple(one for one in first.versions("d") if one != found.datasets["d"])}


def test_a_dataset_that_one_loader_alone_serves_is_served() -> None:
    found = agreed([("l:1", loader("a1")), ("l:2", loader("a1", e="b2"))], None)

    assert {name: one.fingerprint.hex()[:2] for name, one in found.datasets.items()} == {"d": "a1", "e": "b2"}


def test_loaders_that_disagree_about_one_dataset_serve_the_others() -> None:
    found = agreed([("l:1", loader("a1", e="b2")), ("l:2", loader("a1", e="c3"))], None)

    assert list(found.datasets) == ["d"]
    with pytest.raises(
        DatasetChanged, match=r"no version of dataset 'e' in common: at l:1 it has .* b2b2.*, at l:2 c3c3"
    ):
        raise found.disagreed["e"]


def test_without_a_version_in_common_both_fingerprints_and_what_differs_are_named() -> None:
    one = Description("v", "r", {"d": info("d", "a1")}, 1 << 20, 9)
    other = Description("v", "r", {"d": info("d", "b2", 99)}, 1 << 20, 9)

    with pytest.raises(
        DatasetChanged, match=r"l:1 .* a1a1.*, at l:2 b2b2.*, which differ in the number of samples \(100 and 99\)"
    ):
        agreed([("l:1", one), ("l:2", other)], None)


def test_a_fingerprint_chooses_a_version_that_need_not_be_everywhere() -> None:
    loaders = [("l:1", loader("b2", "a1")), ("l:2", loader("c3"))]

    assert agreed(loaders, "a1a1a1a1").datasets["d"].fingerprint.hex() == "a1" * 8
    with pytest.raises(
        DatasetChanged, match="no dataset with the fingerprint dddddddd is served at l:1, l:2; there is: d a1a1"
    ):
        agreed(loaders, "dddddddd")


def test_a_copy_goes_on_with_the_version_that_was_begun_with_beside_a_newer_one() -> None:
    found = agreed([("l:1", loader("b2", "a1", e="c3"))], None, {"d": "a1" * 8})

    assert {name: one.fingerprint.hex()[:2] for name, one in found.datasets.items()} == {"d": "a1", "e": "c3"}


def test_a_version_that_was_begun_with_and_is_gone_is_an_error_of_its_dataset() -> None:
    found = agreed([("l:1", loader("b2", e="c3"))], None, {"d": "a1" * 8, "e": "c3" * 8})

    assert list(found.datasets) == ["e"]
    assert f"the fingerprint {'a1' * 8}; l:1 has {'b2' * 8}" in str(found.disagreed["d"])
    with pytest.raises(DatasetChanged, match="not served any more as it was"):
        agreed([("l:1", loader("b2"))], None, {"d": "a1" * 8})
