"""A path that is held is found wherever it is renamed to, and is what it was declared as where it lies nowhere."""

import gc
import os
import shutil
from pathlib import Path

import pytest

from feedline_server.host.held_path import HeldPath, hold


def test_a_folder_is_found_after_it_or_one_above_it_was_renamed(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    held = HeldPath(folder)
    assert held.now() == folder

    folder.rename(tmp_path / "a" / "c")
    folder.mkdir()
    assert held.now() == tmp_path / "a" / "c"

    (tmp_path / "a").rename(tmp_path / "z")
    assert held.now() == tmp_path / "z" / "c"


def test_a_link_is_followed_when_it_is_held_and_not_later(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    link = tmp_path / "link"
    link.symlink_to("one")
    held = HeldPath(link)

    link.unlink()
    link.symlink_to("other")

    assert held.now() == tmp_path / "one"


def test_what_was_removed_is_where_it_was_declared_whatever_lies_at_its_new_name(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    held = HeldPath(folder)
    folder.rmdir()
    (tmp_path / "a (deleted)").mkdir()

    assert held.now() == folder
    assert hold(tmp_path / "nothing") is None


def test_its_descriptor_is_let_go_of_with_it(tmp_path: Path) -> None:
    held = HeldPath(tmp_path)
    fd = held._fd
    assert os.path.samestat(os.fstat(fd), tmp_path.stat())

    del held
    gc.collect()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_name_of_bytes_that_are_no_text_is_found(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    held = HeldPath(folder)
    shutil.move(folder, tmp_path / os.fsdecode(b"th\xe9"))

    assert held.now() == tmp_path / os.fsdecode(b"th\xe9")
