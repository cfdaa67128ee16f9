"""Nothing leaves the loader's host unencrypted unless the operator has said so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import feedline
from feedline_server.access.bind_policy import Protection, problems, warnings
from feedline_wire.reach import host_of, is_loopback

FILE = Path("/run/file")


def protection(listen: str = "0.0.0.0:50051", **different: Any) -> Protection:
    nothing = {
        "metrics_listen": None,
        "certificate": None,
        "key": None,
        "client_ca": None,
        "tokens": None,
        "insecure": False,
    }
    return Protection(listen, **(nothing | different))


def test_metrics_that_other_hosts_reach_are_held_to_the_same_rule() -> None:
    (problem,) = problems(protection("127.0.0.1:50051", metrics_listen="0.0.0.0:9100"))

    assert problem.startswith("metrics_listen: 0.0.0.0:9100 is reached from other hosts, and nothing")
    assert not list(problems(protection("127.0.0.1:50051", metrics_listen="0.0.0.0:9100", insecure=True)))
    assert len(list(warnings(protection("127.0.0.1:50051", metrics_listen="0.0.0.0:9100", insecure=True)))) == 2


def test_a_loader_that_other_hosts_reach_without_tls_does_not_start_and_says_the_three_ways_out(
    two_datasets: Path, start_loader: Callable[..., Any]
) -> None:
    with pytest.raises(AssertionError) as refused:
        start_loader(two_datasets, "--listen", "0.0.0.0:0")

    said = str(refused.value)
    assert "the loader ended with code 1" in said
    assert (
        "feedline serve: listen: 0.0.0.0:0 is reached from other hosts, and nothing that is sent there would be "
        "encrypted: neither the data nor a token. Do one of these: set tls_certificate and tls_key (docs/security.md "
        "says how to make them); or listen on 127.0.0.1; or, on a network where you trust everybody, say so: "
        "--insecure, FEEDLINE_INSECURE=true or insecure = true\n"
    ) in said


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_it_starts_when_the_operator_says_insecure_and_warns_what_that_means(
    how: str,
    numbered_columns: Callable[..., Any],
    start_loader: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbered_columns(tmp_path / "numbers", 5)
    (tmp_path / "numbers" / "loader.toml").write_text("insecure = true\n" if how == "file" else "")
    if how == "environment":
        monkeypatch.setenv("FEEDLINE_INSECURE", "true")

    loader = start_loader(tmp_path / "numbers", "--listen", "0.0.0.0:0", *(["--insecure"] if how == "flag" else []))

    with feedline.connect(loader.address) as connection:
        assert connection.replicas == 1
    assert "nothing that is sent is encrypted" in loader.log_text()
    assert "everybody who reaches the port may read every dataset" in loader.log_text()


def test_it_starts_with_tls_alone_and_warns_that_anybody_may_read(
    two_datasets: Path, authority: Any, start_loader: Callable[..., Any]
) -> None:
    pair = authority.issue("loader", "127.0.0.1")

    loader = start_loader(
        two_datasets, "--listen", "0.0.0.0:0", "--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)
    )

    with feedline.connect(loader.address, ca=authority.file) as connection:
        assert connection.replicas == 1
    assert "encrypted" not in loader.log_text()
    assert "everybody who reaches the port may read every dataset" in loader.log_text()


@pytest.mark.parametrize(
    ("served", "says"),
    [
        (protection(), ["listen: 0.0.0.0:50051 is reached from other hosts"]),
        (protection(tokens=FILE), ["listen: 0.0.0.0:50051 is reached from other hosts"]),
        (protection("[::]:50051"), ["listen: [::]:50051 is reached from other hosts"]),
        (protection("gpu-host:50051"), ["listen: gpu-host:50051 is reached from other hosts"]),
        (protection("127.0.0.1:50051"), []),
        (protection(insecure=True), []),
        (protection(certificate=FILE, key=FILE), []),
        (protection("[::1]:1", certificate=FILE), ["tls_certificate: is set without tls_key"]),
        (protection("[::1]:1", key=FILE), ["tls_key: is set without tls_certificate"]),
        (protection("[::1]:1", client_ca=FILE), ["tls_client_ca: is set without tls_certificate and tls_key"]),
    ],
)
def test_what_a_loader_may_not_be_told(served: Protection, says: list[str]) -> None:
    found = list(problems(served))

    assert len(found) == len(says)
    assert all(one.startswith(beginning) for one, beginning in zip(found, says, strict=True))


@pytest.mark.parametrize(
    ("served", "says"),
    [
        (protection("127.0.0.1:1"), []),
        (protection(certificate=FILE, key=FILE, tokens=FILE), []),
        (protection(certificate=FILE, key=FILE, client_ca=FILE), []),
        (protection(certificate=FILE, key=FILE), ["everybody who reaches the port may read every dataset"]),
        (
            protection(insecure=True, tokens=FILE),
            ["nothing that is sent is encrypted: everybody on the way can read the"],
        ),
        (
            protection(insecure=True),
            ["nothing that is sent is encrypted", "everybody who reaches the port may read every dataset"],
        ),
    ],
)
def test_what_a_loader_warns_of(served: Protection, says: list[str]) -> None:
    found = list(warnings(served))

    assert len(found) == len(says)
    assert all(one.startswith(beginning) for one, beginning in zip(found, says, strict=True))


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:1", "127.9.8.7:1", "[::1]:1", "localhost:1", "ipv4:127.0.0.1:1", "ipv6:[::1]:1", "dns:///localhost:1",
     "unix:/run/loader", "ipv4:127.0.0.1:1,127.0.0.2:1"],
)  # fmt: skip
def test_an_address_that_only_this_host_reaches(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "loader:1", "localhost.example.com:1", "127.0.0.1.example.com:1", "*:1", ":1",
     "dns:///loader:1", "dns://10.0.0.1/loader:1", "ipv4:127.0.0.1:1,10.0.0.1:1", "[fe80::1]:1"],
)  # fmt: skip
def test_an_address_that_others_reach_or_that_nobody_can_tell(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("loader:50051", "loader"),
        ("10.0.0.1:50051", "10.0.0.1"),
        ("[2001:db8::1]:50051", "2001:db8::1"),
        ("dns:///loader:50051", "loader"),
        ("dns://10.0.0.53/loader:50051", "loader"),
        ("dns:loader:50051", "loader"),
        ("ipv4:10.0.0.1:50051", "10.0.0.1"),
        ("ipv6:[::1]:50051", "::1"),
    ],
)
def test_the_host_of_an_address(address: str, host: str) -> None:
    assert host_of(address) == host
