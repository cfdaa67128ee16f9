"""What a trainer shows, where it comes from, and where it may not go."""

import pickle
import socket
from pathlib import Path
from typing import Any

import pytest

import feedline
from feedline.connection.credentials import Credentials
from feedline_server.settings.problems import TRAINERS
from feedline_wire.errors import InvalidRequest, LoaderUnavailable

SECRET = "s3cret-7d0c"


# ---- where it comes from ----


def test_what_is_not_given_comes_from_the_environment() -> None:
    environment = {
        "FEEDLINE_TOKEN_FILE": "/run/token",
        "FEEDLINE_CA": "/run/ca.pem",
        "FEEDLINE_CERTIFICATE": "/run/trainer.pem",
        "FEEDLINE_KEY": "/run/trainer.key",
        "FEEDLINE_SERVER_NAME": "loader",
        "FEEDLINE_INSECURE": "true",
    }

    complete = Credentials(ca="mine.pem").completed(environment)

    assert complete == Credentials(
        token=None,
        token_file="/run/token",
        ca="mine.pem",
        certificate="/run/trainer.pem",
        key="/run/trainer.key",
        server_name="loader",
        insecure=True,
    )


def test_an_empty_variable_is_not_set() -> None:
    assert Credentials().completed({"FEEDLINE_CA": "", "FEEDLINE_INSECURE": "", "FEEDLINE_TOKEN": ""}) == Credentials()


def test_a_token_that_is_given_in_one_way_is_not_looked_for_in_the_other() -> None:
    """A job's own token stands beside a file that the image has set."""
    environment = {"FEEDLINE_TOKEN_FILE": "/run/token"}

    assert Credentials(token=SECRET).completed(environment).token_file is None


@pytest.mark.parametrize(
    ("said", "environment", "complaint"),
    [
        ({}, {"FEEDLINE_TOKEN": "a", "FEEDLINE_TOKEN_FILE": "b"}, "token and token_file are both given"),
        ({"ca": "c", "key": "k"}, {}, "key is given without certificate"),
        ({"ca": "c"}, {"FEEDLINE_CERTIFICATE": "d"}, "certificate is given without key"),
        ({"certificate": "d", "key": "k"}, {}, "certificate is given without ca"),
        ({"server_name": "loader"}, {}, "server_name is given without ca"),
        ({}, {"FEEDLINE_INSECURE": "perhaps"}, "FEEDLINE_INSECURE is 'perhaps'; wanted true or false"),
    ],
)
def test_what_makes_no_sense_together_is_told(
    said: dict[str, Any], environment: dict[str, str], complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        Credentials(**said).completed(environment)


def test_the_loader_knows_the_trainers_variables_and_takes_none_for_a_misspelt_one_of_its_own() -> None:
    """FEEDLINE_TOKEN is one letter from FEEDLINE_TOKENS, and both may be set on a host."""
    of_tracing = "traceparent"  # whose variable, TRACEPARENT, is not feedline's own
    assert {*TRAINERS, "insecure", of_tracing} == set(Credentials.__dataclass_fields__)


# ---- where it may not go ----


@pytest.mark.parametrize("address", ["loader:50051", "10.1.2.3:50051", "dns:///loader:50051", "[2001:db8::1]:50051"])
def test_a_token_does_not_go_unencrypted_to_another_host(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.1.2.3", 50051))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)  # what stands behind the name `loader`

    with pytest.raises(
        InvalidRequest, match=r"the token would go to .* unencrypted. Give ca=.* insecure=True"
    ) as refused:
        feedline.connect(address, token=SECRET)

    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ({"token": SECRET}, "127.0.0.1:50051"),
        ({"token": SECRET, "ca": "ca.pem"}, "loader:50051"),
        ({"token": SECRET, "insecure": True}, "loader:50051"),
        ({}, "loader:50051"),
    ],
)
def test_where_it_may_go(said: dict[str, Any], address: str) -> None:
    Credentials(**said).check_address(address)


@pytest.mark.parametrize("token", ["", "two words", "line\nend", "schlüssel", "nul\0"])
def test_what_no_header_can_carry_is_no_token_and_is_not_repeated(token: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token)

    for credentials in (Credentials(token=token), Credentials(token_file=file)):
        with pytest.raises(InvalidRequest, match="is no token: a token is visible ASCII without spaces") as refused:
            credentials.read()
        assert not token or token not in str(refused.value)


def test_a_token_is_in_no_repr() -> None:
    credentials = Credentials(token=SECRET, insecure=True)

    assert SECRET not in repr(credentials) + repr(credentials.read())


def test_a_key_is_in_no_repr(authority: Any) -> None:
    pair = authority.issue("trainer")
    credentials = Credentials(ca=authority.file, certificate=pair.certificate, key=pair.key)

    assert "PRIVATE KEY" in pair.key.read_text()
    assert "PRIVATE KEY" not in repr(credentials.read())


def test_a_token_of_the_environment_does_not_travel_in_a_pickle(
    token_loader: Any, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy takes its token from the environment of its own process."""
    monkeypatch.setenv("FEEDLINE_TOKEN", tokens["alice"])
    with feedline.connect(token_loader.address) as loader:
        pickled = pickle.dumps(loader)

    assert tokens["alice"].encode() not in pickled
    with pickle.loads(pickled) as copy:
        assert copy.replicas == 1


def test_files_that_vanish_under_a_running_trainer_are_not_missed(
    token_loader: Any, tokens: dict[str, str], tmp_path: Path, start_loader: Any, two_datasets: Path
) -> None:
    """Whoever writes a token in two steps must not end a training between them."""
    file = tmp_path / "token"
    file.write_text(tokens["alice"])
    loader = start_loader(two_datasets, "--workers", "1", "--tokens", str(token_loader.tokens))
    port = loader.address.rpartition(":")[2]
    with feedline.connect(loader.address, token_file=file) as connection:
        epoch = connection.epoch(dataset="digits", batch_size=1, prefetch=1)
        next(epoch)

        file.write_text("")
        loader.stop()
        start_loader(
            two_datasets, "--workers", "1", "--tokens", str(token_loader.tokens), "--listen", f"127.0.0.1:{port}"
        )

        assert len(list(epoch)) == 100


def test_a_name_is_verified_that_an_address_was_found_by() -> None:
    assert Credentials(ca="ca").verifying("loader").server_name == "loader"
    assert Credentials(ca="ca", server_name="mine").verifying("loader").server_name == "mine"


def test_a_plain_error_stays_what_it_is_where_nobody_listens() -> None:
    with pytest.raises(LoaderUnavailable, match="no loader answers"):
        feedline.connect("127.0.0.1:9", timeout_s=0.3)
