"""Who may call, and which datasets exist for them: the tokens file, and the authorization of every call.

Only the SHA-256 of a token is kept. Neither is in a message, a log or a repr.
"""

import hashlib
import hmac
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feedline_server.access.reload import HotReloaded
from feedline_wire import pem, rpc
from feedline_wire.errors import InvalidRequest, NotAllowed

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

_NAME = re.compile(r"[A-Za-z0-9._-]+")

ENTRY = 'sha256 = "…" and, for some datasets only, datasets = ["…"]'


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and which datasets exist for them."""

    name: str
    """Of the token, or of the client's certificate, or of the host: streams are counted by it."""
    datasets: frozenset[str] | None = None
    """None: all of them."""


ANYBODY = Caller("anybody")


@dataclass(frozen=True, slots=True)
class Token:
    """One entry of the tokens file."""

    name: str
    digest: bytes = field(repr=False)
    datasets: frozenset[str] | None

    @property
    def caller(self) -> Caller:
        """Who calls with it."""
        return Caller(self.name, self.datasets)


Tokens = tuple[Token, ...]


class Authorization:
    """One call's authorization: who calls, and whether that is still so. Thread-safe."""

    def __init__(self, tokens: HotReloaded[Tokens] | None, header: Sequence[str], otherwise: str) -> None:
        """`header` is what was sent as `authorization`. `otherwise` names the caller
        of a loader without tokens."""
        self._tokens = tokens
        self._header = tuple(header)
        self._known: Tokens = () if tokens is None else tokens.now()
        self.caller = Caller(otherwise) if tokens is None else authenticate(self._known, header)

    def __repr__(self) -> str:
        return f"<Authorization {self.caller}>"

    def is_valid(self) -> bool:
        """The tokens file has the same entry for this caller as when the call began."""
        if self._tokens is None or (now := self._tokens.now()) is self._known:
            return True
        try:
            if authenticate(now, self._header) != self.caller:
                return False
        except NotAllowed:
            return False
        self._known = now
        return True


def authenticate(tokens: Tokens, authorization: Sequence[str]) -> Caller:
    """The caller whose token was sent. Raises NotAllowed if none was, or an unknown one."""
    if not authorization:
        raise NotAllowed(
            "this loader needs a token: give token_file= (or FEEDLINE_TOKEN_FILE) the file that the loader's operator "
            "gave you"
        )
    scheme, _, sent = authorization[0].partition(" ")
    digest = hashlib.sha256(sent.encode()).digest()
    found = None
    for token in tokens:  # all of them, so that the time says nothing about which
        if hmac.compare_digest(token.digest, digest):
            found = token
    if len(authorization) > 1 or scheme.lower() != rpc.BEARER.lower() or found is None:
        raise NotAllowed(
            "this loader does not know the token that was sent: it was replaced, or is of another loader; ask the "
            "loader's operator for a token"
        )
    return found.caller


def read_tokens(file: Path) -> Tokens:
    """Read a tokens file. Raises InvalidRequest with all problems, one a line, and nothing that may be a secret."""
    try:
        entries = tomllib.loads(pem.read(file).decode())
    except ValueError as error:  # not TOML, or not even text; tomllib quotes at most one character
        raise InvalidRequest(f"{file}: is not TOML: {error}") from None
    problems = [f"{file}: {problem}" for name, entry in entries.items() for problem in _problems(name, entry)]
    if problems:
        raise InvalidRequest("\n".join(problems))
    tokens = tuple(_token(name, entry) for name, entry in entries.items())
    known: dict[bytes, str] = {}
    for token in tokens:
        other = known.setdefault(token.digest, token.name)
        if other != token.name:
            raise InvalidRequest(f"{file}: {other} and {token.name} have the same token; each needs one of its own")
    return tokens


def hot_reloaded_tokens(file: Path | None) -> HotReloaded[Tokens] | None:
    """The tokens, hot reloaded; None without a file. Raises InvalidRequest if it is not valid."""
    return None if file is None else HotReloaded("tokens", (file,), lambda: read_tokens(file))


def unknown_datasets(tokens: Tokens, served: Iterable[str]) -> Iterator[str]:
    """A sentence for each dataset that a token names and that is not served: most likely it is misspelt."""
    there = frozenset(served)
    for token in tokens:
        for name in sorted((token.datasets or frozenset()) - there):
            yield f"the token {token.name!r} is for a dataset {name!r}, which is not served here"


def _problems(name: str, entry: object) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield f"[{name}]: found a value; wanted a table of that name with {ENTRY}"
        return
    if not _NAME.fullmatch(name):
        yield f"[{name!r}]: a token's name has letters, digits, '.', '_' and '-'"
    for key in entry.keys() - {"sha256", "datasets"}:
        yield f"[{name}]: there is no {key!r}; wanted {ENTRY}. A token itself is never written here"
    digest, datasets = entry.get("sha256"), entry.get("datasets", [])
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        yield f"[{name}]: sha256 is not the SHA-256 of a token, 64 hexadecimal digits; make one with `feedline token`"
    if not isinstance(datasets, list) or not all(isinstance(dataset, str) for dataset in datasets):
        yield f"[{name}]: datasets is not a list of names"


def _token(name: str, entry: Mapping[str, Any]) -> Token:  # Any: what `_problems` found nothing wrong with
    datasets = frozenset(entry["datasets"]) if "datasets" in entry else None
    return Token(name, bytes.fromhex(entry["sha256"]), datasets)
