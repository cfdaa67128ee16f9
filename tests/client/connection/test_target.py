"""What a target names."""

from collections.abc import Sequence

import pytest

from feedline.connection.target import Address, Entry, Fleet, Name, Source, entries
from feedline_wire.errors import InvalidRequest


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("loader:50051", (Name("loader", 50051),)),
        (" loader:50051 ", (Name("loader", 50051),)),
        ("localhost:50051", (Name("localhost", 50051),)),
        ("a:1,b:2", (Name("a", 1), Name("b", 2))),
        ("a:1, b:2", (Name("a", 1), Name("b", 2))),
        (["a:1", "b:2,c:3"], (Name("a", 1), Name("b", 2), Name("c", 3))),
        (("10.0.0.7:65535",), (Address("10.0.0.7:65535"),)),
        ("[::1]:50051", (Address("[::1]:50051"),)),
        ("dns:///loader.training.svc:50051", (Name("loader.training.svc", 50051),)),
        ("dns:loader:50051", (Name("loader", 50051),)),
        ("dns:///10.0.0.7:50051", (Address("10.0.0.7:50051"),)),
        ("dns://10.0.0.53/loader:50051", (Address("dns://10.0.0.53/loader:50051"),)),
        ("unix:/run/loader.sock", (Address("unix:/run/loader.sock"),)),
        ("ipv4:10.0.0.7:50051", (Address("ipv4:10.0.0.7:50051"),)),
        ("ray:digits", (Fleet("ray", "digits"),)),
        ("ray:digits,b:2", (Fleet("ray", "digits"), Name("b", 2))),
        ("ray:50051", (Name("ray", 50051),)),  # a host of that name
        ("a:1,10.0.0.7:2,a:1", (Name("a", 1), Address("10.0.0.7:2"))),
    ],
)
def test_a_target_is_names_to_resolve_and_addresses_each_once(
    target: str | Sequence[str], found: tuple[Entry, ...]
) -> None:
    assert entries(target) == found


def loaders() -> list[str]:
    return ["10.0.0.7:50051"]


def test_a_function_is_asked_for_the_loaders_later() -> None:
    assert entries(loaders) == (Source(loaders),)
    assert str(Source(loaders)) == "loaders()"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("", "'' is not 'host:port'; write for example 'loader:50051'"),
        ([], "names no loader"),
        ("loader", "'loader' is not 'host:port'"),
        ("./digits", "'./digits' is data on this host, and here loaders are wanted; write for example 'loader:50051'"),
        ("a:1,~/digits", "'~/digits' in the target 'a:1,~/digits' is data on this host"),
        ("loader:", "'loader:' is not 'host:port'"),
        (":50051", "':50051' is not 'host:port'"),
        ("loader:grpc", "'loader:grpc' is not 'host:port'"),
        ("loader:0", "the port of 'loader:0' is not in 1..65535"),
        ("loader:70000", "the port of 'loader:70000' is not in 1..65535"),
        ("::1:50051", "'::1:50051' is not 'host:port'"),
        ("http://loader:50051", "'http://loader:50051' is not an address of a loader, which has no scheme"),
        ("a:1,,b:2", "'' in the target 'a:1,,b:2' is not 'host:port'"),
        ("dns:", "'dns:' is not 'host:port'"),
        ("dns:///loader", "'dns:///loader' is not 'host:port'"),
        (["a:1", 7], "a target is a string or a list of strings, found 7"),
    ],
)
def test_what_is_no_address_is_named_with_what_to_write_instead(target: str | Sequence[str], told: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        entries(target)

    assert told in str(error.value)
