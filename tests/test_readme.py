"""The documents are true: what README.md and docs/*.md show is run.

How a document says what is to be done with a block:
  ```python   all of a document's blocks are one program, run in order in a temporary folder with the demo's `digits`
              (views train and validation); "loader:50051" and "127.0.0.1:50051" are a loader that serves them
  ```toml     a loader.toml; it must be accepted as one
  ```bash     every `feedline …` command must exist with the options that it is given, every `scripts/…`, and every
              file of `python examples/…`
  anything else is not looked at, nor is a block below a line `<!-- not run: WHY -->`
The Python of migrate.md is run by tests/end_to_end/test_migrate.py: each of its sections is two programs; that
of ray.md by tests/end_to_end/test_ray.py, with a Ray cluster.
"""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

BLOCK = re.compile(
    r"^(?P<not_run><!-- not run: .+ -->\n+)?(?P<indent> *)```(?P<kind>\w*)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
ADDRESS_SHOWN = re.compile(r"(loader|127\.0\.0\.1|localhost):50051")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `line` is the document's line that its code starts on, counted from 1."""

    kind: str
    code: str
    line: int


def blocks(text: str, kind: str) -> list[Block]:
    """The blocks of a kind that are to be run."""
    return [
        Block(kind, textwrap.dedent(found["code"]), text.count("\n", 0, found.start("code")) + 1)
        for found in BLOCK.finditer(text)
        if found["kind"] == kind and not found["not_run"]
    ]


def program(text: str) -> str:
    """The Python blocks as one program whose line numbers are the document's."""
    lines: list[str] = []
    for block in blocks(text, "python"):
        lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
    return "\n".join(lines) + "\n"


ELSEWHERE = {"migrate.md", "ray.md"}
"""Documents whose Python another test runs."""

FRAMEWORKS = {"jax.md", "torch.md"}
"""Documents whose programs need a framework beside Keras on TensorFlow."""


def having(kind: str) -> list[Any]:
    """The documents with blocks of a kind, as parameters."""
    return [
        pytest.param(
            path, id=path.name, marks=pytest.mark.frameworks if kind == "python" and path.name in FRAMEWORKS else ()
        )
        for path in DOCUMENTS
        if blocks(path.read_text(), kind) and not (kind == "python" and path.name in ELSEWHERE)
    ]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's digits."""
    folder = tmp_path_factory.mktemp("documents") / "digits"
    subprocess.run([sys.executable, "-m", "feedline_server", "demo-data", str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def address(start_shared_loader: Any, digits: Path) -> str:
    """A loader that serves the demo's digits."""
    loader_address: str = start_shared_loader(digits).address
    return loader_address


@pytest.mark.keras
@pytest.mark.parametrize("document", having("python"))
def test_the_python_of_a_document_runs(document: Path, digits: Path, address: str, tmp_path: Path) -> None:
    """In a process of its own: a trainer's, with nothing of pytest about it."""
    shutil.copytree(digits, tmp_path / "digits")
    script = tmp_path / f"{document.name}.py"
    script.write_text(ADDRESS_SHOWN.sub(address, program(document.read_text())))

    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100, check=False,
    )  # fmt: skip

    assert done.returncode == 0, f"{document} fails (the traceback's lines are the document's):\n{done.stdout}"


@pytest.mark.parametrize("document", having("toml"))
def test_every_toml_block_of_a_document_is_a_loader_toml(document: Path, tmp_path: Path) -> None:
    from feedline_server.settings.settings import load_settings

    for block in blocks(document.read_text(), "toml"):
        folder = tmp_path / str(block.line)
        folder.mkdir()
        np.save(folder / "x.npy", np.zeros((4, 2), np.float32))  # what is served where the block names no dataset
        (folder / "loader.toml").write_text(block.code)

        settings = load_settings(folder, {})

        assert settings.datasets, f"{document.name}:{block.line} serves nothing"


@pytest.mark.parametrize("document", having("bash"))
def test_every_command_of_a_document_exists(document: Path) -> None:
    for block in blocks(document.read_text(), "bash"):
        where = f"{document.name}:{block.line}"
        for name, *words in _commands(block.code):
            if name == "feedline":
                options = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
                assert options <= _options_of(words[0]), f"{where}: feedline {words[0]} has not all of {options}"
            if name == "python" and words[0].startswith("examples/"):
                assert (ROOT / words[0]).is_file(), f"{where}: there is no {words[0]}"
            if name.startswith("scripts/"):
                assert os.access(ROOT / name, os.X_OK), f"{where}: there is no {name}"


def _commands(code: str) -> list[list[str]]:
    """The words of every command line, without the variables that are set before it."""
    lines = [shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines()]
    commands = [list(dropwhile(re.compile(r"\w+=").match, words)) for words in lines]
    return [words for words in commands if words]


@functools.cache
def _options_of(command: str) -> set[str]:
    """The options that a command's help names."""
    shown = subprocess.run(
        [sys.executable, "-m", "feedline", command, "--help"], text=True, capture_output=True, check=True
    )
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown.stdout))


def test_blocks_are_found_and_keep_their_lines() -> None:
    skipped = "<!-- not run: needs a GPU -->\n```python\nb = 2\n```\n"
    text = f"# Title\n\n```python\na = 1\n```\n\n{skipped}\n  ```python\n  c = 3\n  ```\n"

    assert blocks(text, "python") == [Block("python", "a = 1\n", 4), Block("python", "c = 3\n", 13)]
    assert program(text) == "\n\n\na = 1" + "\n" * 9 + "c = 3\n"
