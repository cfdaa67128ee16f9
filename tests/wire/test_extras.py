"""What the hint says that installs an extra: it must be right for how feedline was installed."""

import json
from pathlib import Path

import pytest

from feedline_wire import extras
from feedline_wire.extras import ExtraMissing, need, pip_install, requirement


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "my checkout"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    return folder


@pytest.mark.parametrize("editable", [{"editable": True}, {}], ids=["editable", "pip install ."])
def test_a_checkout_is_named_by_its_folder(checkout: Path, editable: dict[str, bool]) -> None:
    assert requirement(json.dumps({"url": checkout.as_uri(), "dir_info": editable})) == str(checkout)


@pytest.mark.parametrize(
    "source",
    [
        None,
        {"url": "file:///wheels/feedline-0.2.0-py3-none-any.whl", "archive_info": {}},
        {"url": "https://example.org/feedline.git", "vcs_info": {"vcs": "git", "commit_id": "0"}},
        {"url": "file:///nowhere/checkout", "dir_info": {}},
    ],
    ids=["an index", "a wheel", "a repository", "a checkout that is gone"],
)
def test_anything_else_is_named_by_the_package(source: dict[str, object] | None) -> None:
    assert requirement(source and json.dumps(source)) == "feedline"


def test_the_command_is_quoted_for_a_shell(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "requirement", lambda _written: str(checkout))

    assert pip_install("h5") == f"pip install '{checkout}[h5]'"


def test_what_is_missing_is_named_with_the_command() -> None:
    need(["json", "os"], extra="server")

    with pytest.raises(ExtraMissing) as missing:
        need(["json", "not_there"], extra="server")
    assert str(missing.value) == (
        f"needs not_there, which is not installed here; install with: {pip_install('server')}"
    )


def test_a_folder_that_is_called_like_a_package_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps its files in /tmp/ray: `python -m feedline down NAME` there took it for Ray, and failed."""
    (tmp_path / "not_there_either").mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ExtraMissing, match="needs not_there_either, which is not installed here"):
        need(["not_there_either"], extra="ray")
