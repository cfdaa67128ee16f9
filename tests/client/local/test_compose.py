"""What Compose is told, and what is made of its answers. A program of the test's own stands in for `docker`."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from feedline.local import compose
from feedline.local.run_directory import RunDirectory
from feedline_wire.errors import InvalidRequest

DOCKER = """#!/bin/sh
echo "$FEEDLINE_DATA|$FEEDLINE_PORT|$FEEDLINE_TCP_PORT|$FEEDLINE_WORKERS|$*" >> "$0.calls"
case "$*" in
  *" port --index 1 "*) echo 127.0.0.1:40001 ;;
  *" port --index 2 "*) echo 127.0.0.1:40002 ;;
  *" ps -q "*) echo 0123456789ab ;;
  *" up "*) [ ! -e "$0.broken" ] || { echo "no space left on device" >&2; exit 17; } ;;
esac
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(DOCKER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for name in ("FEEDLINE_PORT", "FEEDLINE_TCP_PORT", "FEEDLINE_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    return program


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "docker-compose.yml").write_text("services: {}\n")
    return tmp_path / "docker-compose.yml"


@pytest.fixture
def calls(docker: Path) -> Callable[[], list[str]]:
    """What it was called with after it said which Compose it has, without what is the same in all."""

    def found() -> list[str]:
        lines = docker.with_name("docker.calls").read_text().splitlines()
        return [line for line in lines if not line.endswith("compose version")]

    return found


def test_containers_are_started_found_and_ended(
    docker: Path, file: Path, tmp_path: Path, calls: Callable[[], list[str]]
) -> None:
    directory = RunDirectory(tmp_path / "run")
    data = tmp_path / "digits"
    data.mkdir()

    record = compose.start(data, name="Digits", replicas=2, workers=4, file=file, directory=directory)
    kept = directory.read("Digits")
    was_running = compose.stop("Digits", record, directory=directory)

    assert kept == record
    assert record.addresses == ("127.0.0.1:40001", "127.0.0.1:40002")
    assert was_running
    assert directory.names() == []
    # One project a fleet; replicas cannot share a port of the host.
    head = f"{data}|0|0|4|compose -p feedline-digits -f {file}"
    assert calls() == [
        f"{head} up -d --scale loader=2 loader",
        f"{head} port --index 1 loader 50051",
        f"{head} port --index 2 loader 50051",
        f"{head} ps -q loader",
        f"{head} down --timeout 30",
    ]


def test_one_container_keeps_its_port_over_its_restarts_and_a_loader_toml_stands_for_its_folder(
    docker: Path, file: Path, tmp_path: Path, calls: Callable[[], list[str]]
) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/loader.toml").touch()

    compose.start(
        tmp_path / "digits/loader.toml", name="digits", replicas=1, workers=None, file=file,
        directory=RunDirectory(tmp_path / "run"),
    )  # fmt: skip

    data, port, tcp_port, workers, _ = calls()[0].split("|")
    assert data == str(tmp_path / "digits")
    assert 1024 < int(port) < 65536
    assert tcp_port in {"50061", "0"}  # 0: somebody on this host has the other
    assert workers == ""


def test_what_compose_says_is_passed_on_and_nothing_stays(
    docker: Path, file: Path, tmp_path: Path, calls: Callable[[], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    docker.with_name("docker.broken").touch()
    directory = RunDirectory(tmp_path / "run")

    with pytest.raises(compose.ComposeFailed, match=r"Compose's up ended with code 17: the reason is above"):
        compose.start(tmp_path, name="digits", replicas=1, workers=None, file=file, directory=directory)

    assert "no space left on device" in capfd.readouterr().err
    assert calls()[-1].endswith(" down --timeout 30")
    assert directory.names() == []


@pytest.mark.parametrize(
    ("path", "compose_file", "told"),
    [
        ("my_data:dataset", "docker-compose.yml", "my_data:dataset: is Python"),
        ("nothing", "docker-compose.yml", "nothing: is no folder, nor a loader.toml in one"),
        (".", "nothing.yml", "nothing.yml: there is no such file; wanted feedline's docker-compose.yml"),
    ],
)
def test_what_a_container_cannot_be_given_is_refused_before_anything_starts(
    docker: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, compose_file: str, told: str
) -> None:
    monkeypatch.chdir(file.parent)
    directory = RunDirectory(tmp_path / "run")

    with pytest.raises(InvalidRequest, match=told):
        compose.start(path, name="digits", replicas=1, workers=None, file=Path(compose_file), directory=directory)

    assert directory.names() == []
    assert not docker.with_name("docker.calls").exists()


def test_without_compose_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(compose.ComposeFailed, match=r"neither `docker compose` nor `docker-compose` is here"):
        compose.command()


def test_options_of_serve_are_not_dropped_without_a_word() -> None:
    compose.refuse([])
    with pytest.raises(InvalidRequest, match=r"--memory: a container takes no options of `feedline serve`"):
        compose.refuse(["--memory", "1GiB"])


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.file("digits", "json").write_text(json.dumps({"engine": "compose", "words": [], "replicas": 1}))

    with pytest.raises(InvalidRequest, match=r"digits\.json: is not what `feedline up` wrote"):
        directory.read("digits")
