"""Python objects on the command line and in loader.toml: what is understood, and what is said of mistakes."""

import os
from pathlib import Path
from typing import Any

import pytest

from feedline_server.declared.datasets import PythonConfig
from feedline_server.settings.settings import load_settings
from feedline_wire.errors import InvalidRequest


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, without what the environment says."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("FEEDLINE_"):
            monkeypatch.delenv(name)


def served(path: str, **overrides: Any) -> tuple[str, PythonConfig]:
    [(name, config)] = load_settings(Path(path), overrides).datasets.items()
    assert isinstance(config, PythonConfig)
    return name, config


def test_a_module_and_a_name_is_a_dataset_of_the_modules_name(tmp_path: Path) -> None:
    name, config = served("my_classes:training_generator", workers=3)

    assert name == "my_classes"
    assert config == PythonConfig.declare(path=tmp_path, object="my_classes:training_generator")


@pytest.mark.parametrize(
    ("path", "folder", "reference"),
    [
        ("my_classes.py:made", "", "my_classes:made"),
        ("code/my_classes.py:made", "code", "my_classes:made"),
        ("code/my_classes:made", "code", "my_classes:made"),
        ("package.inner:made", "", "package.inner:made"),
        ("here/package/inner.py:made", "here", "package.inner:made"),
        ("my_classes:Holder.made", "", "my_classes:Holder.made"),
    ],
)
def test_a_module_may_be_named_as_a_file(tmp_path: Path, path: str, folder: str, reference: str) -> None:
    (tmp_path / "here" / "package").mkdir(parents=True)
    (tmp_path / "here" / "package" / "__init__.py").touch()

    _, config = served(path)

    assert (config.path, config.object) == (tmp_path / folder, reference)


def test_views_and_steps_are_said_on_the_command_line(tmp_path: Path) -> None:
    _, config = served("my:load", views=["validation=check", "test=other:check"], steps_per_epoch=20)

    assert config.objects == {"train": "my:load", "validation": "my:check", "test": "other:check"}
    assert config.steps_per_epoch == 20


def test_arguments_are_values_of_toml_or_text() -> None:
    texts = ["n=3", "rate=0.5", "flip=true", "split=TRAIN", 'name="3"', "sizes=[2, 3]", "folder=/mnt/scans", "empty="]

    _, config = served("my:load", arguments=texts, deterministic=False)

    assert config.arguments == {
        "n": 3,
        "rate": 0.5,
        "flip": True,
        "split": "TRAIN",
        "name": "3",
        "sizes": [2, 3],
        "folder": "/mnt/scans",
        "empty": "",
    }
    assert not config.deterministic


def test_views_may_be_parts_of_the_object() -> None:
    _, config = served("my:dataset", views=["train=:800", "validation=800:"])

    assert config.objects == {"train": "my:dataset"}
    assert config.parts == {"train": ":800", "validation": "800:"}


def test_the_environment_may_name_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDLINE_DATA", "my:dataset")
    monkeypatch.setenv("FEEDLINE_WORKERS", "5")

    settings = load_settings(None, {})

    assert settings.workers == 5
    assert list(settings.datasets) == ["my"]


def test_in_loader_toml_the_kind_is_told_by_the_object(tmp_path: Path) -> None:
    (tmp_path / "loader.toml").write_text(
        '[datasets.scans]\nobject = "my:load"\nviews = {validation = "my:check"}\n'
        'arguments = {folder = "data", n = 3}\n'
    )

    config = load_settings(tmp_path, {}).datasets["scans"]

    assert isinstance(config, PythonConfig)
    assert config.path == tmp_path
    assert config.objects == {"train": "my:load", "validation": "my:check"}
    assert config.arguments == {"folder": "data", "n": 3}


@pytest.mark.parametrize(
    ("path", "overrides", "words"),
    [
        ("my-classes:made", {}, "my-classes:made: is no file or folder, and no module:name either; wanted my_classes:"),
        ("module.py", {}, "module.py: is a module; name the object in it that is served: "),
        (
            "my:made",
            {"views": ["validation"]},
            "--view: found 'validation'; wanted VIEW=my:NAME, such as validation=my:NAME",
        ),
        ("my:made", {"views": ["v=a-b"]}, "command line: datasets.my.views: found {'v': 'a-b'}; wanted module:name"),
        ("my:made", {"views": ["v=check", "w=3:"]}, "wanted either an object for each view, or object = … and a part"),
        ("my:made", {"views": ["train=other"]}, "datasets.my: has both object and views.train, which is the same view"),
        ("my:made", {"steps_per_epoch": 0}, "command line: datasets.my.steps_per_epoch: found 0; wanted greater than"),
        ("my:made", {"arguments": ["32"]}, "--argument: found '32'; wanted NAME=VALUE, such as batch_size=32"),
        ("my:made", {"size": (2, 2)}, "datasets.my.size: there is no such setting"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, path: str, overrides: dict[str, Any], words: str) -> None:
    (tmp_path / "module.py").touch()

    with pytest.raises(InvalidRequest) as caught:
        load_settings(Path(path), overrides)

    assert words in str(caught.value)


def test_an_object_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "loader.toml").write_text('[datasets.scans]\nkind = "python"\n')

    with pytest.raises(InvalidRequest, match=r'datasets\.scans: names no object; say object = "module:name"'):
        load_settings(tmp_path, {})
