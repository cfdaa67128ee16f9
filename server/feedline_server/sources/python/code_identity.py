"""The text of the operator's code, as part of a dataset's identity: a module, and those beside it that it imports.

The law: files are found from what is written in `import` statements, not from what happens to be loaded, so every
process finds the same. Of what is installed elsewhere the version stands for the text.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from feedline_wire.errors import DataError


def texts(modules: Sequence[str], folders: Sequence[Path]) -> Iterator[bytes]:
    """Names and texts of these modules, which are imported already, and of those in the folders that they import."""
    waiting, seen = sorted(modules, reverse=True), set(modules)
    while waiting:
        name = waiting.pop()
        yield name.encode()
        file = _file(name, folders)
        if file is None:
            yield _elsewhere(name)
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


def _elsewhere(name: str) -> bytes:
    """The text of one file where it is known, else a version: what is compiled has no text."""
    file = getattr(sys.modules[name], "__file__", None)
    if file is not None and file.endswith(".py"):
        return Path(file).read_bytes()
    return str(getattr(sys.modules[name.split(".", maxsplit=1)[0]], "__version__", "")).encode()


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
