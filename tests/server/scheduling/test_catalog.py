"""What may be asked for: a table of keys, and who sees which dataset."""

import dataclasses
from typing import Any

import pytest

from feedline_server.scheduling.catalog import Catalog
from feedline_wire.errors import DatasetChanged, InvalidRequest
from feedline_wire.key import most_rows

Stage = Any  # the fixture in conftest.py


@pytest.fixture
def catalog(stage: Stage) -> Catalog:
    found: Catalog = stage.scheduler._catalog  # what the scheduler asks
    return found


def test_a_caller_sees_its_own_datasets_and_no_other(catalog: Catalog, stage: Stage) -> None:
    seen = catalog.seen_by(frozenset({"checked"}))

    assert list(seen.served) == ["checked"]
    assert catalog.seen_by(None) is catalog
    with pytest.raises(InvalidRequest, match=r"no dataset 'numbers' is served here; there is: checked"):
        seen.check(stage.key())


@pytest.mark.parametrize(("length", "shown"), [(64, "61" * 64 + ":"), (65, "61" * 64 + "…:")])
def test_of_a_long_fingerprint_the_first_64_bytes_are_repeated(
    catalog: Catalog, stage: Stage, length: int, shown: str
) -> None:
    with pytest.raises(DatasetChanged) as raised:
        catalog.check(stage.key(fingerprint=b"a" * length))

    assert f"the request has {shown}" in str(raised.value)


@pytest.mark.parametrize(("length", "shown"), [(64, f"{'v' * 64!r};"), (65, f"{'v' * 64!r}… (65 characters);")])
def test_of_a_long_name_the_first_64_characters_are_repeated(
    catalog: Catalog, stage: Stage, length: int, shown: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        catalog.check(stage.key(view="v" * length))

    assert f"has no view {shown}" in str(raised.value)


@pytest.mark.parametrize("offset", [0, 99])
def test_each_position_of_an_epoch_can_be_asked_for(catalog: Catalog, stage: Stage, offset: int) -> None:
    assert catalog.check(stage.key(offset)) == 4032 + 8


def test_a_position_past_the_end_is_named_as_what_it_is_in_its_epoch(catalog: Catalog, stage: Stage) -> None:
    with pytest.raises(InvalidRequest, match=r"position 203 is past .* \(100 samples\); ask for position 3 of epoch 7"):
        catalog.check(stage.key(203, epoch=5))


def test_a_batch_may_take_as_many_bytes_as_the_loader_assembles(catalog: Catalog, stage: Stage) -> None:
    exact = Catalog(catalog.served, max_batch_nbytes=4040)

    assert exact.check(stage.key(rows=1)) == 4040
    with pytest.raises(InvalidRequest, match=r"a batch of 2 rows takes 8080 bytes; .* at most 4040"):
        exact.check(stage.key(rows=2))


def test_a_batch_may_have_so_many_rows_and_no_more(catalog: Catalog, stage: Stage) -> None:
    roomy, most = Catalog(catalog.served, max_batch_nbytes=1 << 50), most_rows(100)

    assert roomy.check(stage.key(rows=most)) == 4040 * most
    with pytest.raises(InvalidRequest, match=rf"a batch of {most + 1} rows .* ask for 1\.\.{most}$"):
        roomy.check(stage.key(rows=most + 1))


def test_a_batch_of_no_rows_is_refused(catalog: Catalog, stage: Stage) -> None:
    with pytest.raises(InvalidRequest, match="a batch of 0 rows"):
        catalog.check(stage.key(rows=0))


def test_an_older_version_is_found_by_its_fingerprint(catalog: Catalog) -> None:
    newest = catalog.served["numbers"]
    older = [dataclasses.replace(newest, fingerprint=fingerprint) for fingerprint in (b"one", b"two")]
    with_older = Catalog(catalog.served, max_batch_nbytes=1 << 20, older={"numbers": tuple(older)})

    assert with_older.find("numbers", newest.fingerprint) is newest
    assert with_older.find("numbers", b"two") is older[1]
    assert with_older.find("numbers", b"three") is None


def test_a_version_that_is_not_here_may_be_elsewhere(catalog: Catalog, stage: Stage) -> None:
    with pytest.raises(DatasetChanged) as raised:
        catalog.check(stage.key(fingerprint=b"other"))

    assert raised.value.elsewhere
