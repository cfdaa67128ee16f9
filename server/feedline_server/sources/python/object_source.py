"""Python objects as a source: built, found to be of one kind and one form, and identified by their code and data.

This is what workers read from, and the process that describes the objects to others (`probe`).
"""

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias

import numpy as np

from feedline_server.declared.datasets import PythonConfig
from feedline_server.host.user_code import source_of
from feedline_server.sources.arrays.content import spread
from feedline_server.sources.python import seeding
from feedline_server.sources.python.objects import Built, build
from feedline_server.sources.python.samples import Samples
from feedline_server.sources.python.units import Batches, Streams
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.selection import Selection, declared
from feedline_server.sources.source import Opened, SampleRequest
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array

Reading: TypeAlias = Samples | Batches | Streams

READINGS: Mapping[str, type[Reading]] = {"samples": Samples, "batches": Batches, "stream": Streams}
"""How each kind of object is read."""


class PythonSource:
    """The operator's objects; a GeneratedSource."""

    def __init__(self, config: PythonConfig) -> None:
        self._config = config
        self.objects = {view: build(reference, config) for view, reference in config.objects.items()}
        self.kind = _one_kind(self.objects)
        self._reading: Reading = READINGS[self.kind](list(self.objects.values()), _wanted(config))
        self.samples = self._reading.samples
        self.columns = self._reading.columns
        self.longest: Mapping[str, int] = self._reading.longest
        self.structure = self._reading.form.structure
        """How the columns make up a batch, if the objects show it."""

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """See GeneratedSource."""
        return self._reading.draw(request)

    def content(self) -> Iterator[bytes]:
        """The text of the modules, and a few samples or batches, which show what the text does not: the data."""
        modules = sorted({reference.partition(":")[0] for reference in self._config.objects.values()})
        yield from texts(modules, self._config.code_folders)
        # Two objects of a module may be as long as each other and begin alike.
        yield " ".join(reference.partition(":")[2] for reference in self._config.objects.values()).encode()
        yield f"{self.kind} seeding {seeding.VERSION} {[one.length for one in self.objects.values()]}".encode()
        if self._config.deterministic:
            yield from (self._probe(sample) for sample in spread(self.samples, self._reading.probed))

    def check_repeats(self) -> None:
        """DataError naming a sample that is another one when it is read again, in another order."""
        probed = spread(self.samples, self._reading.probed)
        if not probed or not self._config.deterministic:
            return
        first = {sample: self._probe(sample) for sample in probed}
        self._reading.forget()
        for sample in reversed(probed):
            if self._probe(sample) != first[sample]:
                raise DataError(
                    f"{', '.join(self._config.objects.values())}: {self._what} {sample} is another one when it is read "
                    "again, although random, numpy.random and the object's own generators were seeded alike: a retry, "
                    "a resumed training or another replica would have other data. Draw from these, and keep nothing "
                    "from one call to the next; or say deterministic = false in loader.toml and do without"
                )
        self._reading.forget()

    @property
    def _what(self) -> str:
        return "batch" if self.kind == "batches" else "sample"

    def _probe(self, sample: int) -> bytes:
        digest = blake2b(digest_size=16)
        request = SampleRequest(np.array([sample], np.int64), np.zeros(1, np.int64), 0)
        for name, column in self._reading.draw(request).items():
            array = column.values if isinstance(column, Ragged) else column
            digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.digest()


def opened(config: PythonConfig) -> Opened:
    """The objects of a declaration, with a view each, or with parts of the only one as views."""
    source = PythonSource(config)
    objects = list(source.objects.items())
    views: dict[str, Selection] = {}
    start = 0
    for view, built in objects:
        views[view] = range(start, start + built.length)
        start += built.length
    if config.parts:
        if source.kind == "stream":
            raise DataError(f"{objects[0][1].reference}: is a stream, which has no parts; name an object for each view")
        views = {view: declared(view, text, source.samples, config.path) for view, text in config.parts.items()}
    return Opened(
        source,
        views,
        lambda: _notes(config, source),
        is_batched=source.kind != "samples",
        is_stream=source.kind == "stream",
        structure=source.structure,
    )


def _wanted(config: PythonConfig) -> list[str] | None:
    """The parts of dicts that are read, where the declaration names all that it needs; None: all."""
    if config.inputs is None:
        return None
    wanted = [*config.inputs, *(config.targets or ()), *([config.sample_weight] if config.sample_weight else [])]
    for columns in (*(one.columns for one in config.transforms), *(one.columns for one in config.filters)):
        if columns is None:  # a function that has samples as mappings of all
            return None
        wanted += columns
    return wanted


def _one_kind(objects: Mapping[str, Built]) -> str:
    (first, one), *others = objects.items()
    for view, other in others:
        if other.kind != one.kind:
            raise DataError(
                f"the view {first!r} ({one.reference}) is {one.description}, the view {view!r} ({other.reference}) is "
                f"{other.description}: views of one dataset are of one kind; declare two datasets"
            )
    return one.kind


def _notes(config: PythonConfig, source: PythonSource) -> Iterator[str]:
    for view, built in source.objects.items():
        match built.kind:
            case "batches":
                yield (
                    f"view {view!r}: {built.reference} is {built.description}, which are served as they are made; "
                    "a trainer asks for them one by one, its batch_size plays no part"
                )
            case "stream":
                yield (
                    f"view {view!r}: {built.reference} is {built.description}, served as a stream without end: each "
                    "worker runs one of its own, so there is no order, no exactly-once, no resuming with state_dict "
                    "and no ranks; for these serve an object with __len__ and __getitem__"
                )
    if not config.deterministic:
        yield "deterministic = false: a retry, a resumed training or another replica may have other data"
    if source.kind == "samples" and isinstance(source.structure, tuple) and isinstance(source.structure[0], dict):
        names = [column.name for column in source.columns]
        if len(source.structure) == 1:
            yield f"samples are dicts: all of {', '.join(names)} are inputs, as a mapping, until targets are declared"


# ---- the text of the code ----


def texts(modules: Sequence[str], folders: Sequence[Path]) -> Iterator[bytes]:
    """Names and texts of these modules, which are imported already, and of those in the folders that they import.

    They are found from what is written in `import` statements, not from what happens to be loaded, so every process
    finds the same. Of what is installed elsewhere the version stands for the text.
    """
    waiting, seen = sorted(modules, reverse=True), set(modules)
    while waiting:
        name = waiting.pop()
        yield name.encode()
        file = _file(name, folders)
        if file is None:
            yield source_of(sys.modules[name])
            continue
        text = file.read_bytes()
        yield text
        for other in sorted(_imported(name, file, text), reverse=True):
            if other not in seen and _file(other, folders) is not None:
                seen.add(other)
                waiting.append(other)


def _file(name: str, folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        place = folder.joinpath(*name.split("."))
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                return file
    return None


def _imported(name: str, file: Path, text: bytes) -> set[str]:
    """The modules that a module's text names, and packages that they are in."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:  # it was imported a moment ago
        raise DataError(f"{file}: changed while it was opened ({error}); start again") from error
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found |= _with_packages(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                found |= _with_packages(f"{base}.{alias.name}" if base else alias.name)
    return found - {name}


def _with_packages(name: str) -> set[str]:
    steps = name.split(".")
    return {".".join(steps[: end + 1]) for end in range(len(steps))}
