"""A function of the operator's own, for each sample or for each batch.

With `columns` it takes these as arguments and returns them; without, it takes a sample as a mapping of all columns and
returns one, whose columns take the place of all. If it has a parameter `rng`, that is a numpy Generator that belongs to
the sample (or the batch), the same in every process.

What comes out has the dtype and shape that came out when it was tried, or is an error that names the sample.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from feedline_server.declared.datasets import Declaration
from feedline_server.declared.transforms import CodeTransform
from feedline_server.host.user_code import MASKED, exception_line, imported, masked_values, users_traceback
from feedline_server.sources.ragged import Ragged, joined
from feedline_server.transforms.randomness import generator
from feedline_server.transforms.rows import Rows
from feedline_server.transforms.transform import Spec, Specs, Transform, Trial, chosen
from feedline_wire import IDS
from feedline_wire.errors import DataError, FeedlineError
from feedline_wire.listing import listed
from feedline_wire.tensors import VARIES, Array, Column, wire_dtype

ROOM = 2
"""How much longer than the longest sample that was tried a varying column is taken to be; a batch that is larger than
its memory, which is lent by this guess, is assembled again in more."""


class Function(Transform):
    """One function; it is tried when the dataset is opened, to see what comes out of it."""

    def __init__(self, config: CodeTransform, declaration: Declaration) -> None:
        code = imported(config.code, declaration.code_folders)
        if not callable(code.value):
            raise DataError(f"{config.code} is of type {type(code.value).__name__}; wanted a function")
        super().__init__(config.columns or ())
        self._code = config.code
        self._call = code.value
        self._takes_all = config.columns is None
        self._varies = config.varies
        self._is_of_batches = config.per == "batch"
        self.is_random = _takes_rng(code.value)
        # Numpy may draw otherwise in another version.
        drawn_by = [".".join(["numpy", *np.__version__.split(".")[:2]]).encode()] if self.is_random else []
        self.content = (code.source, *drawn_by)
        self._returned: dict[str, Spec] = {}

    def columns(self, specs: Specs, trial: Trial) -> dict[str, Spec]:
        """See Transform: found by trying, as only the function knows."""
        if not self._takes_all:
            chosen(specs, self._names)
        rows = trial()
        results = self._batch_results(rows) if self._is_of_batches else self._sample_results(rows)
        self._returned = {name: self._spec(name, samples) for name, samples in results.items()}
        return dict(self._returned) if self._takes_all else {**specs, **self._returned}

    def apply(self, rows: Rows) -> None:
        """See Transform."""
        columns = self._of_batch(rows) if self._is_of_batches else self._of_samples(rows)
        rows.columns = columns if self._takes_all else {**rows.columns, **columns}

    # ---- what comes out ----

    def _spec(self, name: str, samples: Sequence[Array]) -> Spec:
        first = samples[0]
        try:
            dtype = wire_dtype(first.dtype)
        except DataError as error:
            raise DataError(f"{self._code} returns a column {name!r} that cannot be served: {error}") from error
        if not self._varies:
            return Spec(Column(name, dtype, first.shape))
        if not first.shape:
            raise DataError(f"{self._code} returns single values as {name!r}, which cannot vary; leave out `varies`")
        return Spec(Column(name, dtype, (VARIES, *first.shape[1:])), ROOM * max(map(len, samples)))

    def _wrong(self, column: Column, found: Array) -> str | None:
        """What is wrong with a sample that came out; None if it is as those that were tried."""
        wanted = column.shape
        varies = wanted[:1] == (VARIES,)
        fits = found.shape[1:] == wanted[1:] and found.ndim == len(wanted) if varies else found.shape == wanted
        if not fits:
            is_hinted = not (varies or self._is_of_batches)
            hint = "; if samples differ in their first dimension, say varies = true" if is_hinted else ""
            return f"returned {column.name!r} of shape {found.shape}; wanted {column}, as it first was{hint}"
        if found.dtype != column.dtype and not np.can_cast(found.dtype, column.dtype, "safe"):
            return f"returned {column.name!r} as {found.dtype}; wanted {column}, as it first was: convert it there"
        return None

    # ---- sample by sample ----

    def _of_samples(self, rows: Rows) -> dict[str, Array | Ragged]:
        out = {
            name: rows.space(name, spec.column.dtype, (len(rows), *spec.column.shape))
            for name, spec in self._returned.items()
            if not spec.varies
        }
        varying: dict[str, list[Array]] = {name: [] for name, spec in self._returned.items() if spec.varies}
        for row, result in enumerate(self._samples(rows)):
            if result.keys() != self._returned.keys():
                raise rows.bad(
                    [row], f"{self._code} returned the columns {listed(result)}; wanted {listed(self._returned)}"
                )
            for name, value in result.items():
                column = self._returned[name].column
                if wrong := self._wrong(column, value):
                    raise rows.bad([row], f"{self._code} {wrong}")
                if name in out:
                    out[name][row] = value
                else:
                    varying[name].append(value.astype(column.dtype, copy=False))
        return {
            name: out[name] if name in out else _joined(varying[name], spec.column)
            for name, spec in self._returned.items()
        }

    def _sample_results(self, rows: Rows) -> dict[str, list[Array]]:
        """Every column that comes out of a few samples, copied: the function may return what it was given."""
        results: dict[str, list[Array]] = {}
        for result in self._samples(rows):
            for name, value in result.items():
                results.setdefault(name, []).append(value.copy())
        return results

    def _samples(self, rows: Rows) -> Iterator[dict[str, Array]]:
        names, columns = self._arguments(rows)
        keys = rows.words(2) if self.is_random else None
        for row in range(len(rows)):
            values = [column[row] for column in columns]
            drawing = {} if keys is None else {"rng": generator(keys[row])}
            try:
                found = self._called(names, values, drawing)
            except Exception as error:
                raise rows.bad([row], exception_line(error), users_traceback(error)) from error
            yield found

    # ---- batch by batch ----

    def _of_batch(self, rows: Rows) -> dict[str, Array | Ragged]:
        results = self._batch_results(rows)
        if results.keys() != self._returned.keys():
            raise self._batch_error(rows, f"returned the columns {listed(results)}; wanted {listed(self._returned)}")
        columns: dict[str, Array | Ragged] = {}
        for name, values in results.items():
            column = self._returned[name].column
            ragged = column.shape[:1] == (VARIES,)
            for value in values if ragged or isinstance(values, list) else values[:1]:  # rows of an array are alike
                if wrong := self._wrong(column, value):
                    raise self._batch_error(rows, wrong)
            if ragged:
                columns[name] = _joined([value.astype(column.dtype, copy=False) for value in values], column)
            else:
                columns[name] = np.ascontiguousarray(values, column.dtype)
        return columns

    def _batch_results(self, rows: Rows) -> dict[str, Any]:
        """Every column that comes out: an array, or a list of a sample each."""
        names, columns = self._arguments(rows)
        values = [
            [column[row] for row in range(len(rows))] if isinstance(column, Ragged) else column for column in columns
        ]
        drawing = {"rng": generator(rows.words(2)[0])} if self.is_random else {}
        try:
            results = self._called(names, values, drawing)
        except Exception as error:
            raise self._batch_error(rows, exception_line(error), users_traceback(error)) from error
        for name, found in results.items():
            if (len(found) if isinstance(found, list) or found.ndim else 0) != len(rows):
                raise self._batch_error(rows, f"returned {name!r} with {np.shape(found)[:1]} rows; wanted {len(rows)}")
        return results

    def _batch_error(self, rows: Rows, message: str, text: str = "") -> FeedlineError:
        shown = f"the batch of {len(rows)} samples, of which any may be the bad one, by its first ones"
        return DataError(
            f"{rows.named}: {self._code} on a batch of {len(rows)} samples: {message}",
            traceback=text,
            samples=rows.request.ids,
            evidence=rows.evidence(shown, 0, len(rows)),
        )

    # ---- the call ----

    def _arguments(self, rows: Rows) -> tuple[list[str], list[Array | Ragged]]:
        names = list(rows.columns) if self._takes_all else list(self._names)
        return names, [rows.columns[name] for name in names]

    def _called(self, names: list[str], values: list[Any], drawing: dict[str, Any]) -> dict[str, Any]:
        """What the function returns, by column. Raises what it raises, or TypeError if it returns something else."""
        if self._takes_all:
            result = self._call(dict(zip(names, values, strict=True)), **drawing)
            if not isinstance(result, Mapping) or not result or not all(isinstance(name, str) for name in result):
                raise TypeError(f"{self._code} returned {type(result).__name__}; wanted a mapping of columns by name")
            if reserved := [name for name in result if name.startswith("__") or not name]:
                raise TypeError(f"{self._code} returned a column {reserved[0]!r}; names like {IDS} are feedline's own")
            named = dict(result)
        else:
            result = self._call(*values, **drawing)
            several: Any = result if len(names) > 1 else (result,)
            if not isinstance(several, tuple | list) or len(several) != len(names):
                raise TypeError(f"{self._code} returned {type(result).__name__}; wanted ({', '.join(names)})")
            named = dict(zip(names, several, strict=True))
        if nothing := [name for name, value in named.items() if value is None]:
            raise TypeError(f"{self._code} returned None as {nothing[0]!r}; does it lack a return?")
        for name, value in named.items():
            if masked := sum(map(masked_values, value if isinstance(value, list | tuple) else (value,))):
                raise TypeError(f"{self._code} returned a masked array as {name!r}, {masked} values masked; {MASKED}")
        if self._is_of_batches and self._varies:
            return {name: [np.asarray(one) for one in value] for name, value in named.items()}
        return {name: np.asarray(value) for name, value in named.items()}


def _takes_rng(function: Any) -> bool:  # noqa: ANN401  # any callable
    try:
        return "rng" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # built-in functions do not say what they take
        return False


def _joined(samples: list[Array], column: Column) -> Ragged:
    return joined(samples) if samples else joined([np.empty((0, *column.shape[1:]), column.dtype)])
