"""Files that hold secrets: read whole or not at all, told apart by name, never quoted, read again when they change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from feedline_server.access.reload import HotReloaded
from feedline_server.access.tokens import Authorization, Caller, authenticate, read_tokens, unknown_datasets
from feedline_wire import pem
from feedline_wire.errors import InvalidRequest, NotAllowed

SOME = "7a" * 32
"""Has the form of a digest."""


# ---- the tokens file ----


def test_a_token_is_for_everything_or_for_the_datasets_that_are_named(
    tmp_path: Path, token_entry: Callable[..., str]
) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(
        token_entry("alice", "one") + token_entry("bob", "two", ["digits", "scans"]) + token_entry("eve", "three", [])
    )

    tokens = read_tokens(file)

    assert authenticate(tokens, ["Bearer one"]) == Caller("alice", None)
    assert authenticate(tokens, ["bearer two"]) == Caller("bob", frozenset({"digits", "scans"}))
    assert authenticate(tokens, ["Bearer three"]) == Caller("eve", frozenset())


def test_the_digest_is_what_sha256sum_prints(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text('[a]\nsha256 = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"\n')

    assert authenticate(read_tokens(file), ["Bearer abc"]).name == "a"  # the example of FIPS 180


def test_neither_a_digest_nor_a_token_is_in_a_repr(tmp_path: Path, token_entry: Callable[..., str]) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(token_entry("alice", "one"))
    tokens = HotReloaded("tokens", (file,), lambda: read_tokens(file))

    shown = f"{tokens!r} {tokens.now()!r} {Authorization(tokens, ['Bearer one'], 'peer')!r}"

    assert "alice" in shown
    assert "one" not in shown.replace("None", "")
    assert "7692c3ad" not in shown  # how SHA-256 of "one" begins


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alice = 3", "[alice]: found a value; wanted a table of that name with"),
        ("[alice]", "[alice]: sha256 is not the SHA-256 of a token, 64 hexadecimal digits; make one with"),
        ('[alice]\nsha256 = "secret"', "[alice]: sha256 is not the SHA-256 of a token"),
        ('[alice]\ntoken = "secret"', "[alice]: there is no 'token'; wanted"),
        (f'[alice]\nsha256 = "{SOME}"\ndatasets = "digits"', "[alice]: datasets is not a list of names"),
        (f'["a b"]\nsha256 = "{SOME}"', "a token's name has letters, digits"),
        (f'[a]\nsha256 = "{SOME}"\n[b]\nsha256 = "{SOME}"', "a and b have the same token; each needs one of its own"),
        ("secret", "is not TOML"),
    ],
)
def test_a_wrong_tokens_file_is_told_by_entry_and_nothing_of_its_values_is(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(text)

    with pytest.raises(InvalidRequest) as told:
        read_tokens(file)

    assert str(file) in str(told.value)
    assert says in str(told.value)
    assert "secret" not in str(told.value)
    assert SOME not in str(told.value)


def test_a_dataset_that_no_loader_serves_is_told(tmp_path: Path, token_entry: Callable[..., str]) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(token_entry("bob", "two", ["digit", "scans"]))

    assert list(unknown_datasets(read_tokens(file), ["digits", "scans"])) == [
        "the token 'bob' is for a dataset 'digit', which is not served here"
    ]


def test_leave_holds_until_the_file_says_something_else_about_its_caller(
    tmp_path: Path, token_entry: Callable[..., str], replace_file: Callable[[Path, str], None]
) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(token_entry("alice", "one"))
    tokens = HotReloaded("tokens", (file,), lambda: read_tokens(file))
    authorization = Authorization(tokens, ["Bearer one"], "peer")
    assert authorization.is_valid()

    replace_file(file, token_entry("bob", "two") + token_entry("alice", "one"))
    assert authorization.is_valid()
    replace_file(file, token_entry("alice", "one", ["digits"]))
    assert not authorization.is_valid()
    replace_file(file, token_entry("bob", "two"))
    assert not authorization.is_valid()
    with pytest.raises(NotAllowed):
        Authorization(tokens, ["Bearer one"], "peer")


def test_without_tokens_everybody_has_leave_under_the_name_of_where_they_are() -> None:
    authorization = Authorization(None, ["Bearer whatever"], "10.0.0.7")

    assert (authorization.caller, authorization.is_valid()) == (Caller("10.0.0.7", None), True)


# ---- certificates and keys ----


def test_a_pair_and_authorities_are_read_as_they_are(authority: Any) -> None:
    issued = authority.issue("loader", "127.0.0.1")

    pair = pem.read_pair(issued.certificate, issued.key)

    assert (pair.chain, pair.key) == (issued.certificate.read_bytes(), issued.key.read_bytes())
    assert pem.read_authorities(authority.file) == authority.file.read_bytes()


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(authority: Any, tmp_path: Path) -> None:
    issued = authority.issue("loader")
    key = serialization.load_pem_private_key(issued.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )

    with pytest.raises(InvalidRequest, match=rf"{locked}: is encrypted, and nobody is there to type its passphrase"):
        pem.read_pair(issued.certificate, locked)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_is_no_certificate_and_no_key_is_named(authority: Any, tmp_path: Path, content: bytes) -> None:
    issued, bad = authority.issue("loader"), tmp_path / "bad"
    bad.write_bytes(content)

    with pytest.raises(InvalidRequest, match=rf"{bad}: holds no certificate in PEM form"):
        pem.read_authorities(bad)
    with pytest.raises(InvalidRequest, match=rf"{bad}: holds no certificate in PEM form"):
        pem.read_pair(bad, issued.key)
    with pytest.raises(InvalidRequest, match=rf"{bad}: is not a private key in PEM form"):
        pem.read_pair(issued.certificate, bad)


# ---- read again ----


class Number:
    """A file with a number; `read` counts how often it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.reads = 0

    def read(self) -> tuple[int]:
        self.reads += 1
        text = pem.read(self.file).decode()
        if not text.isdigit():
            raise InvalidRequest(f"{self.file}: no number")
        return (int(text),)


@pytest.fixture
def number(tmp_path: Path) -> Number:
    (tmp_path / "number").write_text("1")
    return Number(tmp_path / "number")


def test_a_file_that_stays_the_same_is_read_once(number: Number) -> None:
    rotating = HotReloaded("numbers", (number.file,), number.read)

    assert rotating.now() is rotating.now()
    assert number.reads == 1


def test_a_file_that_changes_is_read_again(number: Number, replace_file: Callable[[Path, str], None]) -> None:
    rotating = HotReloaded("numbers", (number.file,), number.read)

    replace_file(number.file, "2")

    assert rotating.now() == (2,)
    assert number.reads == 2


def test_a_link_that_points_elsewhere_is_a_change(number: Number, tmp_path: Path) -> None:
    """Kubernetes replaces a secret so: files are links into a folder that is itself a link."""
    number.file = tmp_path / "link"
    number.file.symlink_to(tmp_path / "number")
    (tmp_path / "other").write_text("2")
    rotating = HotReloaded("numbers", (number.file,), number.read)

    (tmp_path / "new").symlink_to(tmp_path / "other")
    (tmp_path / "new").replace(number.file)

    assert rotating.now() == (2,)


def test_a_broken_file_is_read_once_and_changes_nothing_until_it_is_mended(
    number: Number, replace_file: Callable[[Path, str], None]
) -> None:
    rotating = HotReloaded("numbers", (number.file,), number.read)

    replace_file(number.file, "none")
    assert [rotating.now(), rotating.now(), rotating.now()] == [(1,), (1,), (1,)]
    assert number.reads == 2
    replace_file(number.file, "3")
    assert rotating.now() == (3,)


def test_a_file_that_is_gone_changes_nothing_until_it_is_back(
    number: Number, replace_file: Callable[[Path, str], None]
) -> None:
    rotating = HotReloaded("numbers", (number.file,), number.read)

    number.file.unlink()
    assert rotating.now() == (1,)
    replace_file(number.file, "4")
    assert rotating.now() == (4,)


def test_what_was_read_while_a_file_changed_is_not_used(
    number: Number, replace_file: Callable[[Path, str], None]
) -> None:
    """A certificate of before and a key of after would be one value that never was."""
    rotating = HotReloaded("numbers", (number.file,), number.read)
    read, once = number.read, [True]

    def changing() -> tuple[int]:
        value = read()
        if once.pop():
            once.append(False)
            replace_file(number.file, "3")
        return value

    rotating._read = changing
    replace_file(number.file, "2")

    assert rotating.now() == (1,)
    once[:] = [False]
    assert rotating.now() == (3,)


def test_a_file_that_is_broken_from_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        HotReloaded("numbers", (tmp_path / "none",), Number(tmp_path / "none").read)


def test_asking_opens_no_file(number: Number) -> None:
    """It is asked at every call and every connection."""
    rotating = HotReloaded("numbers", (number.file,), number.read)
    number.file.chmod(0)
    rotating._read = lambda: pytest.fail("read again")  # type: ignore[assignment]  # a mode is no content

    assert rotating.now() == (1,)
