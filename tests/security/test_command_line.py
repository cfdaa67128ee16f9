"""Tokens, authorities and certificates on the command line: made, shown, and never among the arguments."""

import stat
from pathlib import Path
from typing import Any

import pytest

import feedline
from feedline.cli import main
from feedline_server.access.tokens import Caller, authenticate, read_tokens


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_a_token_that_was_made_lets_its_trainer_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("token", "alice", "--into", tmp_path / "alice.token") == 0
    assert run("token", "team.b", "--into", tmp_path / "b.token", "--datasets", "digits,scans") == 0

    (tmp_path / "tokens.toml").write_text(capsys.readouterr().out)
    tokens = read_tokens(tmp_path / "tokens.toml")
    sent = [f"Bearer {(tmp_path / name).read_text().strip()}" for name in ("alice.token", "b.token")]
    assert authenticate(tokens, [sent[0]]) == Caller("alice", None)
    assert authenticate(tokens, [sent[1]]) == Caller("team.b", frozenset({"digits", "scans"}))


def test_a_token_is_only_in_its_file_which_only_its_owner_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("token", "alice", "--into", tmp_path / "alice.token")

    said, token = capsys.readouterr(), (tmp_path / "alice.token").read_text().strip()
    assert len(token) >= 43  # 256 bits in base 64
    assert token not in said.out + said.err
    assert stat.S_IMODE((tmp_path / "alice.token").stat().st_mode) == 0o600


def test_no_token_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "alice.token").write_text("in use")

    assert run("token", "alice", "--into", tmp_path / "alice.token") == 1

    assert (tmp_path / "alice.token").read_text() == "in use"
    assert "alice.token: cannot be made (File exists)" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["a b"], ["a]"], ["alice", "--datasets", "digits, "], ["alice", "--datasets", 'a"']])
def test_a_name_that_would_break_the_tokens_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run("token", *words, "--into", tmp_path / "file") == 1

    assert "is no name: letters, digits" in capsys.readouterr().err
    assert not (tmp_path / "file").exists()


def test_inspect_peek_and_bench_take_a_token_file(
    token_loader: Any, tokens: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(tokens["bob"])
    shown = ["--token-file", tmp_path / "token"]

    assert run("inspect", token_loader.address, *shown) == 0
    assert run("peek", token_loader.address, "--batch-size", 3, "--order", "sequential", *shown) == 0
    assert run("bench", token_loader.address, "--batch-size", 3, "--seconds", "0.01", *shown) == 0

    said = capsys.readouterr().out
    assert "dataset scans: 7 samples" in said
    assert "digits" not in said
    assert "ids        0 1 2" in said


def test_they_take_an_authority_and_a_certificate(
    mutual_loader: Any, authority: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = authority.issue("admin")
    shown = ["--ca", authority.file, "--certificate", pair.certificate, "--key", pair.key]

    assert run("inspect", mutual_loader.address, *shown) == 0
    assert run("inspect", mutual_loader.address, "--ca", authority.file) == 1

    said = capsys.readouterr()
    assert "dataset digits: 101 samples" in said.out
    assert "wants a certificate of this trainer" in said.err


def test_a_name_to_expect_can_be_told(tls_loader: Any, authority: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", tls_loader.address, "--ca", authority.file, "--server-name", "loader") == 0
    assert run("inspect", tls_loader.address, "--ca", authority.file, "--server-name", "elsewhere") == 1

    assert "it is not for 'elsewhere'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "peek", "bench", "demo-train"])
def test_no_command_takes_a_token_as_an_argument(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every user of a host sees the arguments of every process."""
    with pytest.raises(SystemExit) as wrong_usage:
        run(command, "127.0.0.1:9", "--token=abc")

    assert wrong_usage.value.code == 2
    del capsys


@pytest.mark.keras
def test_a_keras_sequence_takes_them_too(
    token_loader: Any, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEEDLINE_TOKEN", tokens["nobody"])

    with feedline.RemoteSequence(token_loader.address, token=tokens["bob"], batch_size=7) as sequence:
        assert len(sequence) == 1
        assert sequence[0][1].tolist() == [0, 1, 2, 3, 4, 5, 6]
