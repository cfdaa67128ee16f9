"""What is said where a framework is not installed: nothing is imported until it is asked for."""

import sys
from importlib import import_module

import pytest

from feedline_wire.extras import ExtraMissing


@pytest.mark.parametrize(
    ("room", "module", "extra"),
    [
        ("feedline.torch", "torch", "torch"),
        ("feedline.jax", "jax", "jax"),
        ("feedline.grain", "grain", "grain"),
        ("feedline.tf", "tensorflow", "tensorflow"),
        ("feedline.tf_keras", "tf_keras", "tf-keras"),
    ],
)
def test_a_framework_that_is_missing_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, room: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, room, raising=False)

    with pytest.raises(ExtraMissing, match=rf"{room} needs {module}, which is not installed here.*\[{extra}\]"):
        import_module(room)
