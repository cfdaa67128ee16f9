"""What the operator's code held when it raised, and nothing of it but arrays of numbers."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feedline_server.sources.evidence import Evidence
from feedline_server.sources.python import held as module
from feedline_server.sources.python.held import held, returned

Code = Callable[..., Path]

READS = """
import numpy as np

class Data:
    table = np.zeros(9)

    def __getitem__(self, index):
        password, secret = "secret", np.array(["secret"])
        image = np.full((16, 16, 3), index, np.uint8)
        again = image
        return self.check(image, index)

    def check(self, image, index):
        border = image[0].astype(np.float32)
        raise ValueError("bad")
"""


def module_of(code: Code, text: str) -> Any:
    """A module of the operator's."""
    sys.path.insert(0, str(code(operators=text)))
    return import_module("operators")


def raised(call: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception, match="bad") as found:
        call()
    error: Exception = found.value
    return error


def shown(evidence: Evidence | None) -> list[tuple[str, tuple[int, ...]]]:
    assert evidence is not None
    return [(one.name, one.shape) for one in evidence.arrays]


def test_arrays_among_the_variables_of_the_code_are_shown_each_once(code: Code) -> None:
    data = module_of(code, READS).Data()

    found = held(raised(lambda: data[7]))

    assert shown(found) == [("image in __getitem__", (16, 16, 3)), ("border in check", (16, 3))]
    assert found is not None
    assert found.arrays[0].pictures[0].pixels[0] == 7
    assert "secret" not in repr(found)


def test_code_that_held_no_array_says_so(code: Code) -> None:
    function = module_of(code, "def f():\n    raise ValueError('bad')").f

    found = held(raised(function).with_traceback(None))

    assert found == Evidence(
        "Nothing to show: the code raised before it returned anything, and no variable held an array.",
        id=found.id if found else "",
    )


def test_a_variable_that_is_the_data_as_a_whole_is_not_read(code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NBYTES", 100)
    operators = module_of(
        code, "import numpy as np\ndef f():\n    whole, one = np.zeros(1000), np.zeros(2)\n    raise ValueError('bad')"
    )

    assert ("one in f", (2,)) in shown(held(raised(operators.f)))
    assert "whole in f" not in dict(shown(held(raised(operators.f))))


def test_images_of_a_library_are_asked_for_their_array_and_those_that_are_damaged_left_out(code: Code) -> None:
    operators = module_of(
        code,
        "import numpy as np\n"
        "class Image:\n    size = (4, 4)\n    def __array__(self, *a, **k): return np.ones(self.size)\n"
        "class Damaged:\n    size = (4, 4)\n    def __array__(self, *a, **k): raise OSError('damaged')\n"
        "Image.__module__ = Damaged.__module__ = 'PIL.Image'\n"
        "class Other:\n    def __array__(self, *a, **k): raise AssertionError('not asked')\n"
        "def f():\n    a, b, c = Image(), Damaged(), Other()\n    raise ValueError('bad')",
    )

    found = dict(shown(held(raised(operators.f))))

    assert found["a in f"] == (4, 4)
    assert not {"b in f", "c in f"} & found.keys()


def test_what_was_returned_and_does_not_fit_is_shown_by_its_parts() -> None:
    value = ({"image": np.zeros((16, 16)), "name": "a"}, np.ones(2))

    assert [shape for _, shape in shown(returned(value))] == [(16, 16), (2,)]
    assert [shape for _, shape in shown(returned((np.zeros((9, 16, 16)), 3), is_batch=True))] == [(4, 16, 16)]
    nothing = returned("text")
    assert nothing is not None
    assert nothing.title == "Nothing to show: what was returned holds no array of numbers."
