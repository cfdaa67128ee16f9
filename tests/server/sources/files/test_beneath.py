"""Files below a folder: what is opened when somebody changes the folder, and what a link may lead to."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from feedline_server.sources.files import beneath
from feedline_server.sources.files.beneath import Folder

Opens = Callable[[int, str], int]


@pytest.fixture(params=[beneath._openat2, beneath.by_components], ids=["openat2", "by components"])
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Folder:
    """A folder `data` with a/b.txt; a secret lies beside it."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "b.txt").write_text("b")
    monkeypatch.setattr(beneath, "_openat2", request.param)
    return Folder(str(tmp_path / "data"), follow_links=False)


def read(folder: Folder, name: str) -> str:
    with os.fdopen(folder.open(name)) as file:
        return file.read()


def test_files_are_read_by_their_names(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "data" / "c é").write_text("c")

    assert [read(folder, "a/b.txt"), read(folder, "c é")] == ["b", "c"]
    with pytest.raises(FileNotFoundError):
        folder.open("a/none")


@pytest.mark.parametrize("to", ["../../secret", "{}/secret", "../../data/../secret"])
def test_a_link_out_of_the_folder_is_refused_whenever_it_was_put_there(folder: Folder, tmp_path: Path, to: str) -> None:
    assert read(folder, "a/b.txt") == "b"
    (tmp_path / "data" / "a" / "b.txt").unlink()
    (tmp_path / "data" / "a" / "b.txt").symlink_to(to.format(tmp_path))

    with pytest.raises(OSError, match=r"is a link out of .*data, to .*secret") as caught:
        folder.open("a/b.txt")

    assert caught.value.errno == errno.EXDEV


def test_a_folder_that_is_a_link_out_is_refused_too(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b.txt").write_text("outside")
    (tmp_path / "data" / "a").rename(tmp_path / "data" / "was")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "outside")

    with pytest.raises(OSError, match="is a link out of"):
        folder.open("a/b.txt")


@pytest.mark.parametrize("to", ["a/b.txt", "{}/data/a/b.txt"])
def test_a_link_to_inside_is_followed(folder: Folder, tmp_path: Path, to: str) -> None:
    (tmp_path / "data" / "link").symlink_to(to.format(tmp_path))

    assert read(folder, "link") == "b"


def test_where_links_are_followed_they_lead_anywhere(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "secret").write_text("meant")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "secret")

    assert read(Folder(str(tmp_path / "data"), follow_links=True), "link") == "meant"


def test_a_folder_that_was_renamed_is_read_from_where_it_is(folder: Folder, tmp_path: Path) -> None:
    assert read(folder, "a/b.txt") == "b"
    (tmp_path / "data").rename(tmp_path / "old")
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "b.txt").write_text("new")

    assert read(folder, "a/b.txt") == "b"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_where_the_kernel_has_no_openat2_or_it_is_forbidden_names_are_gone_by_components(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    asked: list[str] = []

    def missing(_folder: int, name: str) -> int:
        asked.append(name)
        raise OSError(number, "no")

    monkeypatch.setattr(beneath, "_openat2", missing)
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "b.txt").write_text("b")
    folder = Folder(str(tmp_path / "data"), follow_links=False)

    assert [read(folder, "a/b.txt"), read(folder, "a/b.txt")] == ["b", "b"]
    assert asked == ["a/b.txt"]


def test_nothing_stays_open(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "data" / "a" / "deeper").mkdir()
    (tmp_path / "data" / "a" / "deeper" / "c").write_text("c")
    before = len(list(Path("/proc/self/fd").iterdir()))

    read(folder, "a/deeper/c")
    with pytest.raises(OSError, match="No such"):
        folder.open("a/deeper/none")

    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1  # the folder
