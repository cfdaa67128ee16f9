"""What people are shown of a bad sample is small, whatever the sample is, and making it raises nothing."""

import pickle

import numpy as np
import pytest

from feedline_server.sources import evidence as module
from feedline_server.sources.evidence import NBYTES, Evidence, of_rows, of_sample, pictures, summary
from feedline_server.sources.ragged import joined
from feedline_wire.errors import BadSample, to_failure


def of(**columns: object) -> Evidence:
    found = of_rows("t", columns, 1)  # type: ignore[arg-type]  # arrays
    assert found is not None
    return found


def test_a_picture_is_a_picture_and_other_values_are_a_line() -> None:
    image = np.zeros((3, 10, 20, 3), np.uint8)
    image[1, 0, 0] = [7, 8, 9]

    x, y = of(x=image, y=np.array([5, 6, 7])).arrays

    ((shape, pixels),) = ((one.shape, one.pixels) for one in x.pictures)
    assert (x.name, x.dtype, x.shape, shape, pixels[:3]) == ("x", "uint8", (10, 20, 3), (10, 20, 3), bytes([7, 8, 9]))
    assert (y.shape, y.values, y.summary, y.pictures) == ((), "6", "min 6, max 6, mean 6", ())


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        ((1, 3, 16, 32), (16, 32, 3)),  # colours first, as torch has them
        ((1, 1, 16, 32), (16, 32, 1)),
        ((1, 3, 16, 3), (16, 3, 3)),  # behind: too narrow to be looked at
        ((1, 16, 32, 3), (16, 32, 3)),
        ((1, 16, 32, 4), None),
    ],
)
def test_colours_may_stand_before_the_pixels_or_behind(shape: tuple[int, ...], drawn: tuple[int, ...] | None) -> None:
    found = [one.shape for one in pictures(np.zeros(shape, np.float32))]

    assert found == ([] if drawn is None or min(drawn[:2]) < module.LEAST_SIDE else [drawn])


def test_a_row_of_another_length_is_shown_by_itself() -> None:
    (x,) = of(x=joined([np.arange(3.0), np.array([1.5, np.nan]), np.arange(9.0)])).arrays

    assert (x.shape, x.values, x.summary) == ((2,), "1.5 nan", "min 1.5, max 1.5, mean 1.5")


def test_it_is_small_however_large_the_sample_and_however_many_its_columns() -> None:
    columns = {f"{'x' * 200}{number}": np.zeros((2, 2000, 3000, 3), np.uint8) for number in range(3)}
    columns |= {f"y{number}": np.zeros((2, 100_000)) for number in range(30)}

    found = of(**columns)

    assert len(found.arrays) == module.MOST_ARRAYS
    assert sum(len(one.pixels) for array in found.arrays for one in array.pictures) <= NBYTES
    assert len(pickle.dumps(found)) < NBYTES + 8000
    assert found.arrays[0].summary == "min 0, max 0, mean 0 (of one value in 1099)"
    assert found.arrays[3].values == " ".join(["0"] * module.VALUES) + " …"


def test_several_rows_are_as_many_pictures() -> None:
    found = of_rows("t", {"x": np.zeros((9, 16, 16), np.float32)}, 0, 9)

    assert found is not None
    assert len(found.arrays[0].pictures) == module.PICTURES
    assert found.arrays[0].shape == (module.PICTURES, 16, 16)


def test_what_is_no_array_of_numbers_is_left_out() -> None:
    found = of_sample("t", {"password": "secret", "text": np.array(["secret"]), "x": np.ones(2), "o": np.array([None])})

    assert found is not None
    assert [one.name for one in found.arrays] == ["x"]


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (2, 0)])
def test_no_values_are_no_error(shape: tuple[int, ...]) -> None:
    found = of_sample("t", {"x": np.ones(shape, np.float32)})

    assert found is not None
    assert found.arrays[0].shape == shape


def test_making_it_raises_nothing() -> None:
    class Odd(np.ndarray):
        def __array_finalize__(self, _: object) -> None:
            if self.ndim == 2:
                raise RuntimeError("odd")

    assert of_sample("t", {"x": np.zeros(3).view(Odd)}) is None


def test_complex_values_are_shown_and_summed_up_by_their_size() -> None:
    assert summary(np.array([3 + 4j, 0])) == "min 0, max 5, mean 2.5"
    assert of(x=np.array([[0], [1 + 2j]])).arrays[0].values == "1+2j"


def test_it_comes_from_the_worker_with_its_error_and_goes_to_no_trainer() -> None:
    error = BadSample("bad", samples=[1])
    error.evidence = of(x=np.zeros((2, 16, 16), np.uint8))

    assert pickle.loads(pickle.dumps(error)).evidence == error.evidence
    assert to_failure(error) == to_failure(BadSample("bad", samples=[1]))
