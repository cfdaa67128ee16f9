"""The line to one address: channels with what the trainer shows there, made anew for every connection.

The law: why TLS or a loader refuses is found out and said as what it is. Whether that is final, the tracker decides.
"""

import logging
from collections.abc import Sequence
from typing import Any

import grpc

from feedline.connection import handshake
from feedline.connection.credentials import Credentials, Secrets
from feedline_wire import rpc
from feedline_wire.errors import FeedlineError, InvalidRequest, LoaderUnavailable

log = logging.getLogger("feedline")

Options = Sequence[tuple[str, Any]]  # Any: gRPC's options are numbers and texts


class Dialer:
    """One address. Used by its connection's thread; `metadata` by any."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self._address = address
        self._credentials = credentials
        self._secrets: Secrets | None = None
        self._answers = False  # on this channel
        self._has_answered = False  # on any
        self.metadata: tuple[tuple[str, str], ...] = ()
        """For every call: the token."""

    def __repr__(self) -> str:
        return f"<Dialer {self._address}{' TLS' if self._credentials.is_tls else ''}>"

    def open(self, options: Options) -> grpc.Channel:
        """A new channel, with what is in the files now.

        InvalidRequest if that makes no sense, or a token may not go there.
        """
        self._answers = False
        self._credentials.check_address(self._address)
        self._secrets = secrets = self._newest()
        self.metadata = ((rpc.AUTHORIZATION, f"{rpc.BEARER} {secrets.token}"),) if secrets.token is not None else ()
        if not self._credentials.is_tls:
            return grpc.insecure_channel(self._address, options)
        pair = secrets.pair
        credentials = grpc.ssl_channel_credentials(
            secrets.authorities, None if pair is None else pair.key, None if pair is None else pair.chain
        )
        name = self._credentials.server_name
        named = [("grpc.ssl_target_name_override", name)] if name is not None else []
        return grpc.secure_channel(self._address, credentials, [*options, *named])

    def answered(self) -> None:
        """A loader was there and let this trainer in."""
        self._answers = self._has_answered = True

    def meaning(self, reason: FeedlineError) -> FeedlineError:
        """What the loss of a connection comes down to: TLS, a refusal, or a loader that is away."""
        is_silent = type(reason) is LoaderUnavailable and not self._answers
        if is_silent and (self._credentials.is_tls or not self._has_answered):
            return handshake.refusal(self._address, self._credentials) or reason
        return reason

    def _newest(self) -> Secrets:
        try:
            return self._credentials.read()
        except InvalidRequest as error:
            if self._secrets is None:
                raise
            log.warning("the old credentials stay in use: %s", error)
            return self._secrets
