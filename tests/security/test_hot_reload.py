"""Certificates and tokens are replaced under a running loader and a running trainer."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import feedline
from feedline.fleet import resolve, tracker
from feedline_wire.errors import NotAllowed, NotTrusted

LONG_S = 100.0
"""A refusal that is not told at once would end in LoaderUnavailable after this."""


@pytest.fixture
def secured(
    two_datasets: Path,
    new_authority: Callable[[str], Any],
    start_loader: Callable[..., Any],
    token_entry: Callable[..., str],
    tmp_path: Path,
) -> Any:
    """A loader with TLS and tokens, the files of both sides, and an epoch of 101 batches that has begun."""

    class Secured:
        old, new = new_authority("old"), new_authority("new")
        pair = old.issue("loader", "127.0.0.1")
        tokens, token, ca = tmp_path / "tokens.toml", tmp_path / "token", tmp_path / "ca.pem"

    tokens, token, ca = Secured.tokens, Secured.token, Secured.ca
    tokens.write_text(token_entry("old", "old-token"))
    token.write_text("old-token\n")
    ca.write_text(Secured.old.file.read_text())
    Secured.loader = start_loader(
        two_datasets, "--workers", "1", "--tokens", str(tokens),
        "--tls-certificate", str(Secured.pair.certificate), "--tls-key", str(Secured.pair.key),
    )  # fmt: skip
    return Secured


def test_both_are_replaced_in_mid_epoch_and_the_trainer_sees_every_sample_once(
    secured: Any, replace_file: Callable[[Path, str], None], token_entry: Callable[..., str]
) -> None:
    address = secured.loader.address
    with feedline.connect(address, ca=secured.ca, token_file=secured.token) as loader:
        epoch = loader.epoch(dataset="digits", batch_size=1, prefetch=2)
        ids = [next(epoch).ids[0] for _ in range(10)]

        # The trainer first, so that it is ready for both; then the loader, the old token withdrawn at once.
        replace_file(secured.ca, secured.old.file.read_text() + secured.new.file.read_text())
        replace_file(secured.token, "new-token\n")
        secured.pair.replace_with(secured.new.issue("loader", "127.0.0.1"))
        replace_file(secured.tokens, token_entry("new", "new-token"))
        ids += [batch.ids[0] for batch in epoch]

    assert sorted(ids) == list(range(101))
    log = secured.loader.log_text()
    assert '"client": "new"' in log  # the stream was ended, and the trainer came back with its new token
    assert "new certificates in use" in log
    assert "new tokens in use" in log

    # Nothing of the old is worth anything any more, and the new alone is enough.
    with feedline.connect(address, ca=secured.new.file, token="new-token") as loader:
        assert set(loader.datasets) == {"digits", "scans"}
    with pytest.raises(NotTrusted, match="no authority of ca="):
        feedline.connect(address, timeout_s=LONG_S, ca=secured.old.file, token="new-token")
    with pytest.raises(NotAllowed, match="does not know the token"):
        feedline.connect(address, timeout_s=LONG_S, ca=secured.new.file, token="old-token")


def test_a_trainer_whose_token_file_comes_later_than_the_loaders_goes_on_when_it_has_come(
    secured: Any, replace_file: Callable[[Path, str], None], token_entry: Callable[..., str]
) -> None:
    """Orchestrators write a secret to all hosts within a minute, in any order."""
    with feedline.connect(secured.loader.address, ca=secured.ca, token_file=secured.token) as loader:
        epoch = loader.epoch(dataset="digits", batch_size=1, prefetch=2)
        ids = [next(epoch).ids[0] for _ in range(10)]

        replace_file(secured.tokens, token_entry("new", "new-token"))
        rest = threading.Thread(target=lambda: ids.extend(batch.ids[0] for batch in epoch))
        rest.start()
        (endpoint,) = loader._fleet._tracker.endpoints
        with loader._fleet._changed:
            assert loader._fleet._changed.wait_for(lambda: "does not know the token" in str(endpoint.reason), 60)
        replace_file(secured.token, "new-token\n")
        rest.join()

    assert sorted(ids) == list(range(101))


def test_loaders_that_take_the_place_of_all_others_with_a_new_token_are_waited_for(
    secured: Any,
    two_datasets: Path,
    start_loader: Callable[..., Any],
    replace_file: Callable[[Path, str], None],
    token_entry: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rolling update that brings the new secret along: no loader that is left has ever let this trainer in."""
    monkeypatch.setattr(resolve, "EVERY_S", 0.1)
    monkeypatch.setattr(resolve, "SOONEST_S", 0.05)
    monkeypatch.setattr(tracker, "LEAVE_AFTER_S", 0.1)
    addresses = [secured.loader.address]
    with feedline.connect(lambda: addresses, ca=secured.ca, token_file=secured.token) as loader:
        epoch = loader.epoch(dataset="digits", batch_size=1, prefetch=2, timeout_s=LONG_S)
        ids = [next(epoch).ids[0] for _ in range(10)]

        replace_file(secured.tokens, token_entry("new", "new-token"))
        successor = start_loader(
            two_datasets, "--workers", "1", "--tokens", str(secured.tokens),
            "--tls-certificate", str(secured.pair.certificate), "--tls-key", str(secured.pair.key),
        )  # fmt: skip
        addresses[:] = [successor.address]
        secured.loader.stop()
        rest = threading.Thread(target=lambda: ids.extend(batch.ids[0] for batch in epoch))
        rest.start()
        fleet = loader._fleet
        with fleet._changed:
            assert fleet._changed.wait_for(
                lambda: ["does not know the token" in str(one.reason) for one in fleet._tracker.endpoints] == [True],
                LONG_S,
            )
        replace_file(secured.token, "new-token\n")
        rest.join()

    assert sorted(ids) == list(range(101))


def test_what_a_token_is_for_changes_under_a_running_trainer(
    secured: Any, replace_file: Callable[[Path, str], None], token_entry: Callable[..., str]
) -> None:
    with feedline.connect(secured.loader.address, ca=secured.ca, token_file=secured.token) as loader:
        epoch = loader.epoch(dataset="digits", batch_size=1, prefetch=2, timeout_s=30)
        next(epoch)

        replace_file(secured.tokens, token_entry("old", "old-token", ["scans"]))

        with pytest.raises(feedline.DatasetChanged, match="now has no such dataset for 'digits'"):
            list(epoch)


@pytest.mark.parametrize("half", ["certificate", "key"])
def test_a_broken_new_certificate_leaves_the_old_one_in_use_and_is_told_in_the_log(
    secured: Any, replace_file: Callable[[Path, str], None], half: str
) -> None:
    """Also while only one of the two files has been replaced."""
    replace_file(getattr(secured.pair, half), getattr(secured.new.issue("loader", "127.0.0.1"), half).read_text())

    with feedline.connect(secured.loader.address, ca=secured.old.file, token="old-token") as loader:
        assert loader.replicas == 1

    assert "the new certificates cannot be used; the old stay in use" in secured.loader.log_text()
    assert "does not belong to the certificate" in secured.loader.log_text()


@pytest.mark.parametrize("content", ["not toml at all", "[carol]\nsha256 = 'short'\n", None])
def test_a_broken_new_tokens_file_leaves_the_old_tokens_in_use_and_is_told_in_the_log(
    secured: Any, replace_file: Callable[[Path, str], None], content: str | None
) -> None:
    if content is None:
        secured.tokens.unlink()
    else:
        replace_file(secured.tokens, content)

    with feedline.connect(secured.loader.address, ca=secured.old.file, token="old-token") as loader:
        assert loader.replicas == 1

    assert "the new tokens cannot be used; the old stay in use" in secured.loader.log_text()


def test_an_empty_tokens_file_lets_nobody_in(secured: Any, replace_file: Callable[[Path, str], None]) -> None:
    replace_file(secured.tokens, "")

    with pytest.raises(NotAllowed):
        feedline.connect(secured.loader.address, timeout_s=LONG_S, ca=secured.old.file, token="old-token")
