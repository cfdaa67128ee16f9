"""What code returns, as columns: names, dtypes, nesting, and all that is refused with what to do about it."""

from typing import Any

import numpy as np
import pytest

from feedline_server.sources.python.returned import Unfit, form_of
from feedline_wire.tensors import Column


def taken(value: Any, wanted: list[str] | None = None) -> tuple[Any, dict[str, str]]:
    """The structure, and each column as dtype and shape."""
    form = form_of(value, wanted)
    return form.structure, {name: f"{array.dtype}{array.shape}" for name, array in form.arrays(value).items()}


X = np.zeros((2, 3), np.uint8)


@pytest.mark.parametrize(
    ("value", "structure", "columns"),
    [
        (X, ("x",), {"x": "uint8(2, 3)"}),
        (7, ("x",), {"x": "int64()"}),
        ((X,), ("x",), {"x": "uint8(2, 3)"}),
        ((X, 1), ("x", "y"), {"x": "uint8(2, 3)", "y": "int64()"}),
        ([X, 1], ("x", "y"), {"x": "uint8(2, 3)", "y": "int64()"}),
        (
            (X, 1, 0.5),
            ("x", "y", "sample_weight"),
            {"x": "uint8(2, 3)", "y": "int64()", "sample_weight": "float32()"},
        ),
        ((X, 1, None), ("x", "y"), {"x": "uint8(2, 3)", "y": "int64()"}),
        (
            ({"image": X, "age": 3.0}, [0, 1]),
            ({"image": "image", "age": "age"}, "y"),
            {"image": "uint8(2, 3)", "age": "float32()", "y": "int64(2,)"},
        ),
        (
            ({"a": X}, {"a": 1}),
            ({"a": "x.a"}, {"a": "y.a"}),
            {"x.a": "uint8(2, 3)", "y.a": "int64()"},
        ),
        (
            ([X, True], 1),
            (("x.0", "x.1"), "y"),
            {"x.0": "uint8(2, 3)", "x.1": "bool()", "y": "int64()"},
        ),
        (
            (1, 2, 3, 4),
            ("part0", "part1", "part2", "part3"),
            dict.fromkeys(("part0", "part1", "part2", "part3"), "int64()"),
        ),
        ({"image": X, "box": (1, 2)}, ({"image": "image", "box": ("box.0", "box.1")},), None),
        ({"x": X, "y": 1, "name": 3}, None, {"x": "uint8(2, 3)", "y": "int64()", "name": "int64()"}),
    ],
)
def test_columns_are_named_by_their_places_and_keys(value: Any, structure: Any, columns: Any) -> None:
    found, arrays = taken(value)

    assert found == structure
    assert columns is None or arrays == columns


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1.5, "float32"),
        ([1.5, 2], "float32"),
        ([[1, 2], [3, 4]], "int64"),
        (True, "bool"),
        (np.float64(1.5), "float64"),
        (np.array([1.5]), "float64"),
        (np.array([1], ">i4"), "int32"),
        (np.int8(3), "int8"),
        (1j, "complex128"),
    ],
)
def test_arrays_keep_their_dtype_and_numbers_of_python_get_that_of_keras(value: Any, dtype: str) -> None:
    _, arrays = taken((value,))

    assert arrays["x"].startswith(f"{dtype}(")


def test_a_whole_number_fits_where_the_others_have_fractions() -> None:
    form = form_of((0.5,), None)

    assert form.arrays((1,), {"x": np.dtype("float32")})["x"].dtype == np.float32
    assert form.arrays((1.5,), {"x": np.dtype("int64")})["x"].dtype == np.float32  # and is refused by its reader


class Tensor:
    """What torch, TensorFlow and Pillow give: something that numpy can read."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.ones(3, np.float16)


def test_whatever_numpy_can_read_is_an_array() -> None:
    assert taken((Tensor(), 1))[1]["x"] == "float16(3,)"


def test_of_a_dict_only_what_is_declared_is_looked_at() -> None:
    sample = {"text": "a red ball", "ids": [1, 2, 3], "label": 4}

    assert taken(sample, ["ids", "label"]) == (None, {"ids": "int64(3,)", "label": "int64()"})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("hello", "holds text in itself ('hello'); text is not served: return numbers"),
        ((X, "dog"), "holds text in [1] ('dog')"),
        (({"name": np.array(["dog"])}, 1), "holds an array of <U3 in [0]['name']; text is not served"),
        ((X, None, 1), "holds None in [1]; return a number or an array, or leave the part out"),
        ((np.array([None]),), "holds an array of object in [0]; return an array of numbers of one shape"),
        (([[1, 2], [3]],), "holds a list of 2 in [0], which is no array"),
        ((object(),), "holds an object in [0]; return an array of numbers"),
        ((np.array(["2020-01-01"], "datetime64[D]"),), "holds an array of datetime64[D] in [0]: dtype datetime64[D]"),
        ({1: X}, "has the key 1 in itself; keys of a dict must be text"),
        ((), "is a tuple of 0, which holds nothing"),
        ({"__ids__": 1}, "has a part '__ids__', which is the name of a column of feedline's own; rename it"),
    ],
)
def test_what_is_no_numbers_is_refused_with_its_place_and_a_remedy(value: Any, words: str) -> None:
    with pytest.raises(Unfit) as caught:
        taken(value)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("later", "words"),
    [
        ((X,), "has no [1]; return the same parts every time"),
        ((X, 1, 2), "has a [2] too"),
        (({"a": X}, 1), "has no [0]"),
    ],
)
def test_what_has_other_parts_than_the_first_is_refused(later: Any, words: str) -> None:
    with pytest.raises(Unfit) as caught:
        form_of((X, 1), None).arrays(later)

    assert words in str(caught.value)


@pytest.mark.parametrize("dropped", [(), ("name",)])
def test_a_key_that_the_first_dict_had_not_is_not_left_out_without_a_word(dropped: tuple[str, ...]) -> None:
    first: dict[str, Any] = {"x": X, "y": 1, **dict.fromkeys(dropped, "a")}
    form = form_of(first, None, dropped)
    like = [Column("x", X.dtype, X.shape), Column("y", np.dtype(np.int64), ())]

    assert form.together([first, first], like) is not None
    assert form.together([first, first | {"z": 2}], like) is None
    with pytest.raises(Unfit, match=r"has a \['z'\] too; return the same parts every time"):
        form.arrays(first | {"z": 2})


def test_a_key_that_the_declaration_does_not_name_may_come_and_go() -> None:
    form = form_of({"x": X, "y": 1}, ["x", "y"])

    assert form.arrays({"x": X, "y": 1, "z": 2}).keys() == {"x", "y"}


# ---- masked arrays ----


def test_the_numbers_behind_a_mask_are_no_data() -> None:
    masked = np.ma.masked_equal(np.array([1, 2, 2]), 2)
    form = form_of((X, masked.filled(0)), None)

    for value in (masked, np.ma.masked):
        with pytest.raises(
            Unfit, match=r"holds a masked array in \[1\], \d of its values are masked; return array.filled"
        ):
            form.arrays((X, value), {"x": X.dtype, "y": masked.dtype})


def test_a_masked_array_without_a_masked_value_is_an_array() -> None:
    assert form_of((np.ma.array([1, 2]),), None).arrays((np.ma.array([3, 4]),))["x"].tolist() == [3, 4]
