"""Why TLS with a loader cannot be established, found out by one more handshake.

gRPC says UNAVAILABLE to all of it, in words that change from version to version, and "Socket closed" where a loader
wants TLS or a certificate. Python's own TLS says what it found. Nothing is sent but the handshake: neither a token nor
a request.
"""

import socket
import ssl

from feedline.connection.credentials import PUBLIC, Credentials
from feedline_wire import reach
from feedline_wire.errors import FeedlineError, NotAllowed, NotTrusted

HANDSHAKE_S = 2.0
"""A loader that answers does so within milliseconds; this one has just been seen to."""

_WRONG_NAME = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""

_WRONG_TIME = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


def refusal(address: str, credentials: Credentials) -> FeedlineError | None:
    """NotTrusted or NotAllowed if it is TLS that does not come about at this address; None if it is something else."""
    if address.startswith("unix:"):
        return None
    try:
        return _with_tls(address, credentials) if credentials.is_tls else _without_tls(address)
    except (OSError, ValueError):  # not there, too slow, no host and port: gRPC has said so already
        return None


def _without_tls(address: str) -> FeedlineError | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the question is only whether it speaks TLS
    try:
        _shake_hands(address, context, None)
    except ssl.SSLError:
        return None
    return NotTrusted(
        f"the loader at {address} speaks TLS only, and this trainer was not told to: give ca=, the certificate of the "
        f"authority that signed the loader's (or FEEDLINE_CA)"
    )


def _with_tls(address: str, credentials: Credentials) -> FeedlineError | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if credentials.ca is None or credentials.ca == PUBLIC:
        context.load_default_certs()
    else:
        context.load_verify_locations(credentials.ca)
    if credentials.certificate is not None:
        context.load_cert_chain(credentials.certificate, credentials.key)
    name = credentials.server_name or reach.host_of(address)
    try:
        # Twice: a loader that is just stopping closes a connection too, but does not take another one.
        if any(_shake_hands(address, context, name) for _ in range(2)):
            return None
    except ssl.SSLCertVerificationError as error:
        return NotTrusted(f"the certificate of the loader at {address} is refused: {_why(error, name, credentials)}")
    except ssl.SSLEOFError:  # it said nothing: a proxy whose loader is away, or a line that was cut
        return None
    except ssl.SSLError as error:
        if error.reason is not None and "ALERT" in error.reason:
            return _unwanted(address, credentials)
        return NotTrusted(
            f"what listens at {address} does not speak TLS ({error.reason or error}), and this trainer was told to by "
            f"ca={credentials.ca}: give the loader a certificate, or leave ca= (and FEEDLINE_CA) away"
        )
    return _unwanted(address, credentials)


def _shake_hands(address: str, context: ssl.SSLContext, name: str | None) -> bool:
    """Whether the other side goes on after the handshake: a gRPC server speaks first, or closes if it refuses us."""
    context.set_alpn_protocols(["h2"])
    host, port = reach.host_of(address), int(address.rpartition(":")[2])
    with (
        socket.create_connection((host, port), HANDSHAKE_S) as plain,
        context.wrap_socket(plain, server_hostname=name) as encrypted,
    ):
        try:
            return encrypted.recv(1) != b""
        except ConnectionError:
            return False


def _why(error: ssl.SSLCertVerificationError, name: str, credentials: Credentials) -> str:
    if error.verify_code in _WRONG_NAME:
        return (
            f"it is not for {name!r}. Connect by a name or an address that it is for, or say which name to expect: "
            f"server_name= (or FEEDLINE_SERVER_NAME)"
        )
    if error.verify_code in _WRONG_TIME:
        return f"{error.verify_message}. Whoever runs the loader has to renew it; or a clock is wrong"
    return (
        f"no authority of ca={credentials.ca} has signed it ({error.verify_message}). Give the certificate of the one "
        f"that has; if there should be none other, somebody is between this trainer and the loader"
    )


def _unwanted(address: str, credentials: Credentials) -> NotAllowed:
    if credentials.certificate is None:
        return NotAllowed(
            f"the loader at {address} wants a certificate of this trainer: give certificate= and key= (or "
            f"FEEDLINE_CERTIFICATE and FEEDLINE_KEY)"
        )
    return NotAllowed(
        f"the loader at {address} does not accept this trainer's certificate {credentials.certificate}: it is not "
        f"signed by an authority that the loader lets in, or has expired"
    )
