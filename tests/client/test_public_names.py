"""What is imported when it is first named, and what is said where it cannot be."""

import pytest

import feedline
import feedline.keras
from feedline_wire.extras import ExtraMissing


def test_keras_without_its_backend_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def imported(name: str) -> object:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr(feedline.keras, "need", lambda modules, extra: None)
    monkeypatch.setattr(feedline.keras, "import_module", imported)

    with pytest.raises(ExtraMissing) as missing:
        _ = feedline.RemoteSequence
    assert str(missing.value) == (
        "feedline.RemoteSequence needs Keras, whose backend here is tensorflow, which is not installed; install it, or "
        "choose one that is (KERAS_BACKEND=tensorflow|jax|torch, before Keras is imported)"
    )


def test_another_module_that_is_missing_is_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def imported(name: str) -> object:
        raise ModuleNotFoundError("No module named 'something'", name="something")

    monkeypatch.setattr(feedline.keras, "need", lambda modules, extra: None)
    monkeypatch.setattr(feedline.keras, "import_module", imported)

    with pytest.raises(ModuleNotFoundError, match="something"):
        _ = feedline.RemoteSequence


@pytest.mark.parametrize("name", ["RemoteSequence", "SaveState", *feedline.keras.__all__])
def test_without_keras_the_extra_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def missing(modules: list[str], extra: str) -> None:
        raise ExtraMissing(
            f"needs {modules[0]}, which is not installed here; install with: pip install feedline[{extra}]"
        )

    monkeypatch.setattr(feedline.keras, "need", missing)

    with pytest.raises(ExtraMissing, match=rf"feedline\.{name} needs keras, .*feedline\[keras\]"):
        getattr(feedline.keras, name)
