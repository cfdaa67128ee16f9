"""What a target names."""

from collections.abc import Sequence

import pytest

from feedline.target import addresses
from feedline_wire.errors import InvalidRequest


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("loader:50051", ("loader:50051",)),
        (" loader:50051 ", ("loader:50051",)),
        ("a:1,b:2", ("a:1", "b:2")),
        ("a:1, b:2", ("a:1", "b:2")),
        (["a:1", "b:2,c:3"], ("a:1", "b:2", "c:3")),
        (("10.0.0.7:65535",), ("10.0.0.7:65535",)),
        ("[::1]:50051", ("[::1]:50051",)),
        ("dns:///loader.training.svc:50051", ("dns:///loader.training.svc:50051",)),
        ("unix:/run/loader.sock", ("unix:/run/loader.sock",)),
        ("a:1,a:1", ("a:1",)),
    ],
)
def test_a_target_names_one_or_several_addresses(target: str | Sequence[str], found: tuple[str, ...]) -> None:
    assert addresses(target) == found


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("", "'' is not 'host:port'; write for example 'loader:50051'"),
        ([], "names no loader"),
        ("loader", "'loader' is not 'host:port'"),
        ("loader:", "'loader:' is not 'host:port'"),
        (":50051", "':50051' is not 'host:port'"),
        ("loader:grpc", "'loader:grpc' is not 'host:port'"),
        ("loader:0", "the port of 'loader:0' is not in 1..65535"),
        ("loader:70000", "the port of 'loader:70000' is not in 1..65535"),
        ("::1:50051", "'::1:50051' is not 'host:port'"),
        ("http://loader:50051", "'http://loader:50051' is not an address of a loader, which has no scheme"),
        ("a:1,,b:2", "'' in the target 'a:1,,b:2' is not 'host:port'"),
        ("dns:", "'dns:' is not 'host:port'"),
        (["a:1", 7], "a target is a string or a list of strings, found 7"),
    ],
)
def test_what_is_no_address_is_named_with_what_to_write_instead(target: str | Sequence[str], told: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        addresses(target)

    assert told in str(error.value)
