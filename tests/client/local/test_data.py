"""Which targets are data on this host, and which are loaders: a table."""

from pathlib import Path

import pytest

from feedline.local.data import is_data


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("./digits", True),
        (".", True),
        ("~/digits", True),
        ("/data/digits", True),
        ("data/loader.toml", True),
        (Path("digits"), True),
        ("my_classes:training_generator", True),
        ("package.module:Class.method", True),
        ("loader:50051", False),
        ("127.0.0.1:50051", False),
        ("[::1]:50051", False),
        ("a.b:50051,c.d:50052", False),
        ("dns:///loader:50051", False),
        ("dns://10.0.0.1/loader:50051", False),
        ("ipv4:127.0.0.1:50051", False),
        ("ipv6:[::1]:50051", False),
        ("unix:/run/feedline.sock", False),
        ("ray:digits", False),
        ("grpc://loader:50051", False),  # an address, if a wrong one
        ("digits", False),  # neither; the error says what to write
        (["loader:50051"], False),
        (lambda: ["loader:50051"], False),
    ],
)
def test_a_target_is_data_here_or_loaders(target: object, expected: bool) -> None:
    assert is_data(target) == expected
