"""The text of the operator's modules: part of a dataset's identity, and where a cause is looked for.

Modules are found from what is written in `import` statements, not from what happens to be loaded, so every process
finds the same.
"""

import ast
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from feedline_server.host.user_code import source_of
from feedline_wire.errors import DataError

MADE_ANEW = "a new generator with each call; make it once, in __init__, and draw from that"
FIXED = "a generator that begins anew with each call; make it once, in __init__, and draw from that"
SEEDED = "a seed that is set with each call; leave it out, feedline seeds by training, epoch and sample"
_OF_THE_SYSTEM = "numbers of the system, which cannot be seeded; draw from random or numpy.random"
_THREADS = "threads, which draw in an order of their own; draw before they start, or seed a generator for each piece"

READING = ("__getitem__", "__getitems__", "on_epoch_end", "on_epoch_begin", "set_epoch")
"""What is called while an object is served; what these call is found by its name."""

UNSEEDED = {
    **dict.fromkeys(("default_rng", "RandomState", "Random", "PCG64", "Philox", "SeedSequence"), MADE_ANEW),
    **dict.fromkeys(
        (
            "SystemRandom",
            "urandom",
            "uuid1",
            "uuid4",
        ),
        _OF_THE_SYSTEM,
    ),
    **dict.fromkeys(("seed", "manual_seed", "set_seed", "set_random_seed", "seed_everything"), SEEDED),
    **dict.fromkeys(("time", "time_ns", "perf_counter", "monotonic"), "the time, which is another with each call"),
    **dict.fromkeys(("ThreadPoolExecutor", "ThreadPool", "Thread"), _THREADS),
}
"""Calls by their last name whose numbers are not those of `seeding`: what they are, and what to do instead."""

TRAINING = re.compile(
    r"(model|trainer|net|learner?)\w*\.fit\w*$|\.(fit_generator|train_on_batch|backward)$", re.IGNORECASE
)
"""What a script calls and a module that is served does not; `scaler.fit` is neither."""


def guard(line: str) -> str:
    """What to do about a line that `training` found."""
    return f'training code runs at import ({line}): move it behind `if __name__ == "__main__":`'


def texts(modules: Sequence[str], folders: Sequence[Path]) -> Iterator[bytes]:
    """Names and texts of these modules, which are imported already, and of those in the folders that they import.

    Of what is installed elsewhere the version stands for the text.
    """
    for name, file, text in _modules(modules, folders):
        yield name.encode()
        yield source_of(sys.modules[name]) if file is None else text


def loaded(modules: Sequence[str], folders: Sequence[Path]) -> list[ModuleType]:
    """These modules, and those in the folders that they import, as far as they are imported."""
    return [sys.modules[name] for name, _, _ in _modules(modules, folders) if name in sys.modules]


def unseeded(
    modules: Sequence[str], folders: Sequence[Path], classes: Collection[str], *, anywhere: bool
) -> dict[str, str]:
    """Where code draws random numbers that are not those of `seeding`, and what to do instead.

    In these classes, and outside of all: what is called to read an object, and what that calls, by name; or anywhere.
    """
    functions: dict[str, list[tuple[str, ast.Call]]] = {}
    for _, file, text in _modules(modules, folders):
        tree = ast.parse(text)
        others = {
            method
            for one in ast.walk(tree)
            if isinstance(one, ast.ClassDef) and one.name not in classes
            for method in one.body
        }
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and file is not None and function not in others:
                calls = [(file.name, node) for node in ast.walk(function) if isinstance(node, ast.Call)]
                functions.setdefault(function.name, []).extend(calls)
    found, seen, waiting = dict[str, str](), set[str](), [*(functions if anywhere else READING)]
    while waiting:
        for file_name, call in functions.get(waiting.pop(), []):
            name = ast.unparse(call.func)
            last = name.rpartition(".")[2]
            if cure := _OF_THE_SYSTEM if name.startswith("secrets.") else UNSEEDED.get(last):
                is_fixed = cure == MADE_ANEW and (call.args or call.keywords)
                found[f"{file_name}, line {call.lineno}: {name}(…)"] = FIXED if is_fixed else cure
            if last not in seen:
                seen.add(last)
                waiting.append(last)
    return found


def training(module: str, folders: Sequence[Path]) -> str | None:
    """Where a module trains when it is imported: "train.py, line 40: model.fit(…)"."""
    file = _file(module, folders)
    try:
        tree = ast.parse(b"" if file is None else file.read_bytes())
    except (SyntaxError, ValueError):  # importing it says so
        return None
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Call) and TRAINING.search(ast.unparse(node.func)):
            return f"{file and file.name}, line {node.lineno}: {ast.unparse(node.func)}(…)"
        is_guard = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
        if not is_guard and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return None


def _modules(modules: Sequence[str], folders: Sequence[Path]) -> Iterator[tuple[str, Path | None, bytes]]:
    waiting, seen = sorted(modules, reverse=True), set(modules)
    while waiting:
        name = waiting.pop()
        file = _file(name, folders)
        text = b"" if file is None else file.read_bytes()
        yield name, file, text
        if file is None:
            continue
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
