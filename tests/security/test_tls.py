"""Loader and trainer over TLS: who believes whom, and what each is told when it does not."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from ports import free_address

import feedline
from feedline_wire import PROTOCOL, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import InvalidRequest, LoaderUnavailable, NotAllowed, NotTrusted

LONG_S = 100.0
"""A refusal that is not told at once would end in LoaderUnavailable after this."""


def test_a_trainer_that_trusts_the_authority_reads_everything_over_tls(tls_loader: Any, authority: Any) -> None:
    with feedline.connect(tls_loader.address, ca=authority.file) as loader:
        ids = [batch.ids.tolist() for batch in loader.epoch(dataset="digits", order="sequential", batch_size=50)]

    assert ids == [list(range(50)), list(range(50, 100)), [100]]


def test_a_name_that_the_certificate_is_also_for_can_be_expected_instead_of_the_targets(
    tls_loader: Any, authority: Any
) -> None:
    with feedline.connect(tls_loader.address, ca=authority.file, server_name="loader") as loader:
        assert set(loader.datasets) == {"digits", "scans"}


def test_a_name_is_looked_for_in_the_certificate_although_its_address_is_what_is_connected_to(
    tls_loader: Any, two_datasets: Path, authority: Any, start_loader: Callable[..., Any]
) -> None:
    pair = authority.issue("loader", "127.0.0.1")  # not for localhost, whose address it is
    other = start_loader(
        two_datasets, "--workers", "1", "--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)
    )
    by_name = [one.address.replace("127.0.0.1", "localhost") for one in (tls_loader, other)]

    with feedline.connect(by_name[0], ca=authority.file) as loader:
        assert len(list(loader.epoch(dataset="scans", batch_size=1))) == 7
    with pytest.raises(NotTrusted, match="it is not for 'localhost'"):
        feedline.connect(by_name[1], timeout_s=LONG_S, ca=authority.file)


def test_a_certificate_of_an_unknown_authority_is_refused_at_once(tls_loader: Any, stranger: Any) -> None:
    with pytest.raises(NotTrusted) as refused:
        feedline.connect(tls_loader.address, timeout_s=LONG_S, ca=stranger.file)

    assert str(refused.value) == (
        f"the certificate of the loader at {tls_loader.address} is refused: no authority of ca={stranger.file} has "
        "signed it (unable to get local issuer certificate). Give the certificate of the one that has; if there should "
        "be none other, somebody is between this trainer and the loader"
    )


def test_the_public_authorities_are_not_believed_to_have_signed_it(tls_loader: Any) -> None:
    with pytest.raises(NotTrusted, match="no authority of ca=public has signed it"):
        feedline.connect(tls_loader.address, timeout_s=LONG_S, ca="public")


def test_a_certificate_for_another_name_is_refused_at_once(tls_loader: Any, authority: Any) -> None:
    with pytest.raises(NotTrusted, match=r"it is not for 'elsewhere'\. Connect by a name .* server_name="):
        feedline.connect(tls_loader.address, timeout_s=LONG_S, ca=authority.file, server_name="elsewhere")


def test_a_certificate_for_another_address_is_refused_at_once(
    two_datasets: Path, authority: Any, start_loader: Callable[..., Any]
) -> None:
    pair = authority.issue("loader", "10.1.2.3")
    loader = start_loader(
        two_datasets, "--workers", "1", "--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)
    )

    with pytest.raises(NotTrusted, match=r"it is not for '127\.0\.0\.1'"):
        feedline.connect(loader.address, timeout_s=LONG_S, ca=authority.file)


def test_a_certificate_that_has_expired_is_refused_at_once(
    two_datasets: Path, authority: Any, start_loader: Callable[..., Any]
) -> None:
    pair = authority.issue("loader", "127.0.0.1", days=(-3, -1))
    loader = start_loader(
        two_datasets, "--workers", "1", "--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)
    )

    with pytest.raises(NotTrusted, match=r"certificate has expired\. Whoever runs the loader has to renew it"):
        feedline.connect(loader.address, timeout_s=LONG_S, ca=authority.file)


# ---- only one of them speaks TLS ----


def test_a_trainer_without_tls_is_refused_by_a_loader_with_it_and_told_what_to_give(tls_loader: Any) -> None:
    with pytest.raises(NotTrusted, match=r"speaks TLS only, and this trainer was not told to: give ca="):
        feedline.connect(tls_loader.address, timeout_s=LONG_S)


def test_no_plain_call_gets_past_a_loader_with_tls(tls_loader: Any, raw: Callable[..., Any]) -> None:
    """Not even the health check: its answer would tell that something listens without TLS."""
    with raw(tls_loader.address) as caller:
        for method in ("/feedline.v1.Loader/Describe", "/feedline.v1.Loader/Status", "/grpc.health.v1.Health/Check"):
            with pytest.raises(grpc.RpcError) as refused:
                caller.call(method, b"")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_trainer_with_tls_is_told_that_the_loader_has_none(open_loader: Any, authority: Any) -> None:
    with pytest.raises(NotTrusted, match=rf"does not speak TLS .* told to by ca={authority.file}"):
        feedline.connect(open_loader.address, timeout_s=LONG_S, ca=authority.file)


def test_a_proxy_that_closes_because_its_loader_is_away_is_waited_for(authority: Any) -> None:
    """It takes connections and says nothing: no word about TLS, which is no reason to end a training."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def close_all() -> None:
            with contextlib.suppress(OSError):
                while True:
                    trainer, _ = proxy.accept()
                    with trainer:
                        trainer.recv(4096)  # else it would be reset

        threading.Thread(target=close_all, daemon=True).start()
        address = f"127.0.0.1:{proxy.getsockname()[1]}"

        with pytest.raises(LoaderUnavailable, match="after 1 s no loader answers"):
            feedline.connect(address, timeout_s=1, ca=authority.file)
        proxy.shutdown(socket.SHUT_RDWR)


def test_a_loader_with_tls_offers_no_lane_that_is_not_encrypted(tls_loader: Any, authority: Any) -> None:
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
    with grpc.secure_channel(tls_loader.address, credentials) as channel:
        request = pb.DescribeRequest(protocol=PROTOCOL).SerializeToString()
        description = pb.Description.FromString(channel.unary_unary(rpc.DESCRIBE)(request, timeout=30))

    assert [lane.name for lane in description.lanes] == ["sealed"]


def test_an_address_where_nobody_listens_is_waited_for_with_tls_as_without(authority: Any) -> None:
    """It is no refusal: the loader may start later than its trainer."""
    with pytest.raises(LoaderUnavailable):
        feedline.connect("127.0.0.1:9", timeout_s=0.3, ca=authority.file)


# ---- certificates of trainers ----


def test_a_trainer_with_a_certificate_of_the_authority_is_let_in(mutual_loader: Any, authority: Any) -> None:
    pair = authority.issue("trainer-7")

    with feedline.connect(
        mutual_loader.address, ca=authority.file, certificate=pair.certificate, key=pair.key
    ) as loader:
        (batch,) = loader.epoch(dataset="scans", order="sequential", batch_size=7)

    assert batch.ids.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert '"client": "trainer-7"' in mutual_loader.log


def test_a_trainer_without_a_certificate_is_told_at_once_that_one_is_wanted(mutual_loader: Any, authority: Any) -> None:
    with pytest.raises(NotAllowed, match="wants a certificate of this trainer: give certificate= and key="):
        feedline.connect(mutual_loader.address, timeout_s=LONG_S, ca=authority.file)


def test_a_trainer_with_a_strangers_certificate_is_told_at_once_that_it_is_not_accepted(
    mutual_loader: Any, authority: Any, stranger: Any
) -> None:
    pair = stranger.issue("trainer-7")

    with pytest.raises(NotAllowed, match="does not accept this trainer's certificate"):
        feedline.connect(
            mutual_loader.address, timeout_s=LONG_S, ca=authority.file, certificate=pair.certificate, key=pair.key
        )


def test_health_is_answered_without_tls_where_it_is_asked_for_and_nothing_else_is(
    two_datasets: Path, authority: Any, start_loader: Callable[..., Any], raw: Callable[..., Any]
) -> None:
    """Kubernetes' own gRPC probe cannot speak TLS, let alone show a certificate."""
    pair, health = authority.issue("loader", "127.0.0.1"), free_address()
    tls = [
        "--tls-certificate",
        str(pair.certificate),
        "--tls-key",
        str(pair.key),
        "--tls-client-ca",
        str(authority.file),
    ]
    start_loader(two_datasets, "--workers", "1", *tls, "--health-listen", health)

    with raw(health) as caller:
        assert caller.call("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"  # status: SERVING
        with pytest.raises(grpc.RpcError) as refused:
            caller.describe()
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


# ---- what is wrong with a loader's files is told before it starts ----


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("nonsense", r"loader\.pem: holds no certificate in PEM form"),
        (None, r"loader\.pem: cannot be read \(No such file or directory\)"),
    ],
)
def test_a_certificate_that_is_none_keeps_the_loader_from_starting(  # fixtures
    two_datasets: Path,
    authority: Any,
    tmp_path: Path,
    start_loader: Callable[..., Any],
    content: str | None,
    says: str,
) -> None:
    pair, bad = authority.issue("loader"), tmp_path / "loader.pem"
    if content is not None:
        bad.write_text(content)

    with pytest.raises(AssertionError, match=says):
        start_loader(two_datasets, "--tls-certificate", str(bad), "--tls-key", str(pair.key))


def test_a_trainers_own_files_are_named_when_they_make_no_sense(
    tls_loader: Any, authority: Any, tmp_path: Path
) -> None:
    one, other = authority.issue("trainer"), authority.issue("trainer")
    missing = tmp_path / "missing.pem"

    with pytest.raises(InvalidRequest, match=rf"{missing}: cannot be read"):
        feedline.connect(tls_loader.address, timeout_s=LONG_S, ca=missing)
    with pytest.raises(InvalidRequest, match=rf"the key {other.key} does not belong to the certificate"):
        feedline.connect(
            tls_loader.address, timeout_s=LONG_S, ca=authority.file, certificate=one.certificate, key=other.key
        )


def test_handshakes_that_fail_leave_the_loaders_log_readable_by_machines(
    two_datasets: Path, authority: Any, stranger: Any, start_loader: Callable[..., Any]
) -> None:
    """gRPC writes lines of its own form for each, and whoever reaches the port can make any number of them."""
    pair, theirs = authority.issue("loader", "127.0.0.1"), stranger.issue("trainer")
    tls = [
        "--tls-certificate",
        str(pair.certificate),
        "--tls-key",
        str(pair.key),
        "--tls-client-ca",
        str(authority.file),
    ]
    loader = start_loader(two_datasets, "--workers", "1", *tls)
    for shown in ({}, {"ca": stranger.file}, {"ca": authority.file},
                  {"ca": authority.file, "certificate": theirs.certificate, "key": theirs.key}):  # fmt: skip
        with pytest.raises((NotTrusted, NotAllowed)):
            feedline.connect(loader.address, timeout_s=LONG_S, **shown)

    assert loader.stop() == 0

    lines = loader.log_text().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []
    assert len(lines) > 2
