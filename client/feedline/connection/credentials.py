"""What a trainer shows to its loaders and whom it believes: its token, its certificate, the authorities it trusts, and
the trace that it belongs to.

FEEDLINE_TOKEN and its sisters are read here alone, and a token is in no repr, no message and no log. Files are read
again for every connection, so what is in them can be replaced under a running trainer.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypedDict

from feedline_wire import pem, reach, trace
from feedline_wire.errors import InvalidRequest
from feedline_wire.pem import Pair

PREFIX = "FEEDLINE_"
"""FEEDLINE_TOKEN_FILE is `token_file`, and so on."""

PUBLIC = "public"
"""As `ca`: the public authorities that gRPC knows, for a loader with a certificate that browsers accept too."""

FilePath: TypeAlias = str | os.PathLike[str]

_TOKEN = re.compile(r"[!-~]+")
"""What a header can carry: visible ASCII, no spaces."""


class CredentialArguments(TypedDict, total=False):
    """The keyword arguments of `feedline.connect` that are credentials, for those who pass them on."""

    token: str | None
    token_file: FilePath | None
    ca: FilePath | None
    certificate: FilePath | None
    key: FilePath | None
    server_name: str | None
    insecure: bool | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Credentials:
    """The arguments of `feedline.connect` about tokens, certificates and trust; None is not given."""

    token: str | None = field(default=None, repr=False)
    token_file: FilePath | None = None
    ca: FilePath | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None
    server_name: str | None = None
    insecure: bool | None = None
    traceparent: str | None = None
    """Shown to loaders for their logs (`feedline_wire.trace`)."""

    def completed(self, environment: Mapping[str, str] = os.environ) -> "Credentials":
        """These, with what was not given taken from the environment; InvalidRequest if they make no sense together.

        A token that was given in either way is not looked for in the other.
        """

        def variable(name: str) -> str | None:
            return environment.get(PREFIX + name.upper()) or None

        has_token = self.token is not None or self.token_file is not None
        complete = Credentials(
            token=self.token if has_token else variable("token"),
            token_file=self.token_file if has_token else variable("token_file"),
            ca=self.ca or variable("ca"),
            certificate=self.certificate or variable("certificate"),
            key=self.key or variable("key"),
            server_name=self.server_name or variable("server_name"),
            insecure=_flag(variable("insecure")) if self.insecure is None else self.insecure,
            traceparent=self.traceparent or _traceparent(environment),
        )
        complete._check()
        return complete

    @property
    def is_tls(self) -> bool:
        """Connections are encrypted, and loaders have to prove who they are."""
        return self.ca is not None

    def verifying(self, name: str) -> "Credentials":
        """These, for an address that was found by asking for `name`: the certificate has to be for that."""
        return self if self.server_name is not None else replace(self, server_name=name)

    def check_address(self, address: str) -> None:
        """InvalidRequest if a token would go to this address unencrypted."""
        has_token = self.token is not None or self.token_file is not None
        if has_token and not self.is_tls and not self.insecure and not reach.is_loopback(address):
            raise InvalidRequest(
                f"the token would go to {address} unencrypted. Give ca=, the certificate of the authority that signed "
                f"the loader's (or {PREFIX}CA); or, on a network where you trust everybody, insecure=True (or "
                f"{PREFIX}INSECURE=true)"
            )

    def read(self) -> "Secrets":
        """What is in the files now; InvalidRequest if that is not what belongs there."""
        from pathlib import Path  # 10 ms, which a trainer without files does not need

        return Secrets(
            token=self._read_token(),
            authorities=None if self.ca in {None, PUBLIC} else pem.read_authorities(Path(str(self.ca))),
            pair=(
                None
                if self.certificate is None or self.key is None
                else pem.read_pair(Path(self.certificate), Path(self.key))
            ),
        )

    def _read_token(self) -> str | None:
        if self.token_file is None:
            return _checked(self.token, "the token that was given") if self.token is not None else None
        from pathlib import Path

        try:
            text = pem.read(Path(self.token_file)).decode()
        except UnicodeDecodeError:
            text = ""
        return _checked(text.strip(), f"what {self.token_file} holds")

    def _check(self) -> None:
        if self.token is not None and self.token_file is not None:
            raise InvalidRequest(f"token and token_file are both given ({_sources()}); a trainer has one token")
        if (self.certificate is None) != (self.key is None):
            there, missing = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise InvalidRequest(f"{there} is given without {missing} ({_sources()}); they belong together")
        for name in ("certificate", "server_name"):
            if getattr(self, name) is not None and not self.is_tls:
                raise InvalidRequest(
                    f"{name} is given without ca ({_sources()}); TLS needs to know whom to believe: give the "
                    f"certificate of the authority that signed the loader's, or {PUBLIC!r} for the public ones"
                )
        if self.traceparent is not None and (
            not isinstance(self.traceparent, str) or trace.parse(self.traceparent) is None
        ):
            raise InvalidRequest(
                f"traceparent is {self.traceparent!r}; wanted that of W3C Trace Context: "
                f"00-<32 hexadecimal digits>-<16>-<2>, in lower case and not all 0"
            )


@dataclass(frozen=True, slots=True)
class Secrets:
    """What was in the files: for one connection."""

    token: str | None = field(repr=False)
    authorities: bytes | None
    """None: no TLS, or the public ones."""
    pair: Pair | None


def _sources() -> str:
    return f"as an argument, or as {PREFIX}… in the environment"


def _flag(text: str | None) -> bool | None:
    match text and text.lower():
        case None:
            return None
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
    raise InvalidRequest(f"{PREFIX}INSECURE is {text!r}; wanted true or false")


def _traceparent(environment: Mapping[str, str]) -> str | None:
    """That of the process' own trace, as tracing libraries leave it there; what is none is passed over, as they do."""
    text = environment.get(trace.HEADER.upper(), "")
    return text if trace.parse(text) is not None else None


def _checked(token: str, what: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise InvalidRequest(f"{what} is no token: a token is visible ASCII without spaces, in one piece")
    return token
