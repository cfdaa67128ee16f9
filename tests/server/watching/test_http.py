"""Who may see a loader over HTTP: as who may call it; a page of another site, a slow client and a crowd may not."""

import base64
import hashlib
import http.client
import socket
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path

import pytest

from feedline_server.access.tokens import hot_reloaded_tokens
from feedline_server.host.addresses import check_free
from feedline_server.watching import http as module
from feedline_server.watching.http import HttpServer, Reply, is_own_host
from feedline_wire.errors import LoaderUnavailable


def said(datasets: frozenset[str] | None, query: Mapping[str, str]) -> Reply:
    """Answers with what it was told of the caller."""
    return Reply(f"{datasets and sorted(datasets)} {dict(query)}".encode(), "text/plain")


Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    servers = []

    def run(tokens: Path | None = None) -> int:
        server = HttpServer({"/said": said}, tokens=hot_reloaded_tokens(tokens), tls=None)
        servers.append(server)
        return server.start("127.0.0.1:0")

    yield run
    for server in servers:
        server.close()
        server.close()


def got(port: int, path: str = "/said", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_path_is_answered_with_its_query_and_another_one_names_those_there_are(start: Start) -> None:
    port = start()

    assert got(port, "/said?a=1&b=") == (200, "None {'a': '1', 'b': ''}")
    assert got(port, "/other") == (404, "there is: /said\n")


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1:9100", True),
        ("[::1]:9100", True),
        ("localhost", True),
        ("loader:9100", True),
        (socket.gethostname(), True),
        ("evil.example.com:9100", False),
        ("evil.example.com", False),
        ("", False),
    ],
)
def test_names_under_which_another_sites_page_may_reach_it_are_no_names_of_it(host: str, is_own: bool) -> None:
    assert is_own_host(host) is is_own


def test_a_page_of_another_site_is_told_nothing(start: Start) -> None:
    status, text = got(start(), Host="evil.example.com")

    assert status == HTTPStatus.MISDIRECTED_REQUEST
    assert "ask by the loader's IP address" in text


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    digest = hashlib.sha256(b"secret").hexdigest()
    (tmp_path / "tokens.toml").write_text(f'[me]\nsha256 = "{digest}"\ndatasets = ["d"]\n')
    return tmp_path / "tokens.toml"


def test_with_tokens_nothing_is_shown_without_one_and_a_token_sees_its_datasets(start: Start, tokens: Path) -> None:
    port = start(tokens)
    basic = base64.b64encode(b"anybody:secret").decode()

    assert got(port)[0] == HTTPStatus.UNAUTHORIZED
    assert got(port, Authorization="Bearer wrong")[0] == HTTPStatus.UNAUTHORIZED
    assert got(port, Authorization="Basic ???")[0] == HTTPStatus.UNAUTHORIZED
    assert got(port, Authorization="Bearer secret") == (200, "['d'] {}")
    # A browser sends it as a password; by any name, as no page of another site has the token.
    assert got(port, Authorization=f"Basic {basic}", Host="loader.example.com") == (200, "['d'] {}")


def test_an_answer_may_not_be_kept_framed_or_guessed_at(start: Start) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", start(), timeout=20)
    connection.request("GET", "/said")
    headers = connection.getresponse().headers
    connection.close()

    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"


def test_clients_that_say_nothing_keep_no_place_for_long(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.2)
    port = start()
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(module.MOST_CONNECTIONS)]
    try:
        for one in silent:
            one.settimeout(20)
            assert one.recv(1) == b""  # it was ended, here
        assert got(port)[0] == HTTPStatus.OK
    finally:
        for one in silent:
            one.close()


def test_a_port_that_is_taken_is_an_error_that_names_the_setting(start: Start) -> None:
    port = start()

    with pytest.raises(LoaderUnavailable, match=rf"'127.0.0.1:{port}' for metrics: Address already in use.*--metrics"):
        HttpServer({}, tokens=None, tls=None).start(f"127.0.0.1:{port}")


def test_a_server_that_comes_again_listens_where_connections_have_just_ended() -> None:
    # A loader that was restarted after a scrape could not listen for a minute: the port was "in use".
    first = HttpServer({"/said": said}, tokens=None, tls=None)
    port = first.start("127.0.0.1:0")
    assert got(port)[0] == HTTPStatus.OK  # it ends the connection, whose port the kernel remembers
    first.close()

    check_free(f"127.0.0.1:{port}", "--metrics-listen")
    second = HttpServer({"/said": said}, tokens=None, tls=None)
    try:
        assert second.start(f"127.0.0.1:{port}") == port
    finally:
        second.close()
