"""A wrong setting in words: where it stands, which key, what was found, what was wanted."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from feedline_server.declared.datasets import KINDS
from feedline_server.declared.forms import UNKNOWN, Contradiction, Table
from feedline_server.declared.transforms import TRANSFORMS, FilterConfig

PREFIX = "FEEDLINE_"
"""What every environment variable of a loader begins with."""

TRAINERS = ("token", "token_file", "ca", "certificate", "key", "server_name")
"""Settings of a trainer (feedline.connection.credentials) whose variables may stand beside a loader's; FEEDLINE_TOKEN
is no misspelt FEEDLINE_TOKENS."""

NEAR = 0.75
"""How alike (difflib) a name must be to be suggested: `worker` is for `workers`, `port` is for nothing."""

WANTED = {
    "byte_size": "a size, such as 512MiB or 2GB",
    "byte_size_unit": "a size, such as 512MiB or 2GB",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a table",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "path_type": "a path",
    "string_type": "text",
    "tuple_type": "a list of names",
}
"""What pydantic's kinds of errors want, where its own words are for programmers."""

WRITTEN: Mapping[int | str, int | str] = {"one_of": "is"}
"""How keys are written whose names as fields would be Python's own words."""

Layer = tuple[str, Mapping[str, Any]]
"""Where values come from, and the values. Any: nothing is checked yet."""


def misspelt(environ: Iterable[str], settings: Iterable[str]) -> Iterator[str]:
    """Variables that are nearly a setting. Others with the prefix are left alone: orchestrators make some up."""
    known = {name.upper() for name in settings}
    for variable in sorted(environ):
        name = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and name not in known and (near := _near(name, known)):
            yield f"environment: {variable}: there is no such setting; did you mean {PREFIX}{near}?"


def in_words(problem: ErrorDetails, layers: Iterable[Layer], settings: list[str]) -> str:
    """One problem that pydantic found; `settings` are the names at the top."""
    # Left out: which class was tried, and what pydantic calls a check ("[key]", "function-after[…]").
    key = [
        WRITTEN.get(part, part)
        for at, part in enumerate(problem["loc"])
        if not ((at == 2 and part in KINDS) or (at == 5 and part in TRANSFORMS) or "[" in str(part) or part == "")
    ]
    where = next((name for name, values in layers if _has(values, key)), None)
    if where is None:  # a value that is missing stands where its table stands
        where = next((name for name, values in layers if _has(values, key[:-1])), "settings")
    if where == "environment":
        where += f": {PREFIX}{str(key[0]).upper()}"
        key = key if len(key) > 1 else []
    parts = [where, ".".join(map(str, key)), _meaning(problem, settings)]
    return ": ".join(part for part in parts if part)


def _meaning(problem: ErrorDetails, settings: list[str]) -> str:
    error = problem.get("ctx", {}).get("error")
    match problem["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            known = _fields(problem["loc"], settings)
            near = _near(str(problem["loc"][-1]), known)
            return "there is no such setting; " + (f"did you mean {near}?" if near else f"there is {', '.join(known)}")
        case "missing":
            one = ' (column = "x" says the same of one)' if problem["loc"][-1] == "columns" else ""
            return f"is missing{one}"
        case "union_tag_invalid":
            found = str(problem.get("ctx", {}).get("tag"))
            near = _near(found, KINDS)
            return f"found kind {found!r}; wanted one of {', '.join(KINDS)}" + (f", such as {near}" if near else "")
        case "union_tag_not_found":
            return f"has neither a kind nor a path to recognise it by; wanted kind = one of {', '.join(KINDS)}"
        case kind if kind == UNKNOWN or isinstance(error, Contradiction):
            return (str(error) if error else problem["msg"]) + _misnamed(problem)
        case "value_error":
            wanted = str(error)
        case kind:
            wanted = WANTED.get(kind, problem["msg"].removeprefix("Input should be "))
    return f"found {problem['input']!r}; wanted {wanted}"


def _misnamed(problem: ErrorDetails) -> str:
    """Which name a transform has that is none, and the nearest that is one; empty if it is about something else."""
    found = problem["input"].get("name") if isinstance(problem["input"], dict) else None
    if problem["loc"][-2:-1] != ("transforms",) or not isinstance(found, str):
        return ""
    near = _near(found, TRANSFORMS)
    return f"; found name {found!r}" + (f", did you mean {near}?" if near else "")


def _fields(loc: tuple[int | str, ...], settings: list[str]) -> list[str]:
    """The names that can stand where `loc` stands."""
    match loc:
        case (_, _, _, "transforms", int(), str(name), _):
            return [*_names(TRANSFORMS[name]), "column"]
        case (_, _, _, "filters", int(), _):
            return ["column", *(str(WRITTEN.get(name, name)) for name in _names(FilterConfig))]
        case (_, _, kind, _, *_):
            return _names(KINDS[str(kind)])
    return settings


def _names(table: type[Table]) -> list[str]:
    return [field.name for field in table.fields()]


def _near(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=NEAR)), None)


def _has(values: object, key: Iterable[int | str]) -> bool:
    for part in key:
        if isinstance(values, dict | list | tuple) and (
            part in values if isinstance(values, dict) else isinstance(part, int) and part < len(values)
        ):
            values = values[part]  # type: ignore[index]  # just asked
        else:
            return False
    return True
