"""Nothing that arrives becomes a path, an import, code or a pickle.

Shown twice: in the text of the modules that requests go through, and by watching all that a loader and its workers
open, import, compile and unpickle while they are asked for everything hostile one can think of.
"""

import ast
import importlib
import json
import os
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import feedline_wire
from feedline_wire import PROTOCOL, frames, rpc
from feedline_wire import loader_pb2 as pb

# ---- in the text ----

ON_THE_WAY = [
    "feedline_server.rpc.interceptor",
    "feedline_server.rpc.requests",
    "feedline_server.rpc.service",
    "feedline_server.scheduling.scheduler",
    "feedline_server.scheduling.stream",
    "feedline_server.scheduling.catalog",
]
"""What a request goes through in the loader's front; a new module on its way belongs here."""

OF_BOTH = [f"feedline_wire.{module.name}" for module in pkgutil.iter_modules(feedline_wire.__path__)]
"""What both sides read messages with. `pem` reads files that the operator names and is not on the way."""

FORBIDDEN_MODULES = {"ctypes", "dill", "cloudpickle", "importlib", "io", "marshal", "multiprocessing", "os", "pathlib",
                     "pickle", "pkgutil", "runpy", "shelve", "shutil", "subprocess", "tempfile", "yaml"}  # fmt: skip

FORBIDDEN_CALLS = {"__import__", "compile", "eval", "exec", "getattr", "globals", "import_module", "load", "loads",
                   "open", "setattr", "vars"}  # fmt: skip

EXCUSED = {
    "feedline_wire.memory": {"ctypes", "os"},  # asks the C library to keep freed memory, when a process starts
    "feedline_wire.pem": {"pathlib"},
    "feedline_wire.text": {"compile"},  # of a regular expression
    "feedline_wire.trace": {"compile"},  # likewise
    "feedline_wire.versions": {"importlib"},  # says which feedline this is
    # Not on the way: commands read their own words, and say which packages are missing.
    "feedline_wire.command_line": {"importlib", "open", "os"},
    "feedline_wire.extras": {"importlib", "pathlib", "loads"},
    "feedline_wire.shortages": {"getattr"},  # asks this process for its limits
    "feedline_wire.seeding": {"ctypes", "getattr", "importlib", "tempfile", "vars"},  # of the operator's, in workers
    "feedline_wire.sealing": {"globals", "open", "pathlib"},  # asks the processor for AES; a piece is opened by its key
}


@pytest.mark.parametrize("name", [*ON_THE_WAY, *(name for name in OF_BOTH if not name.endswith("_pb2"))])
def test_the_modules_that_requests_go_through_can_neither_open_nor_import_nor_unpickle(name: str) -> None:
    source = Path(str(importlib.import_module(name).__file__)).read_text()
    used = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            used |= {alias.name.partition(".")[0] for alias in node.names} & FORBIDDEN_MODULES
        elif isinstance(node, ast.ImportFrom):
            used |= {(node.module or "").partition(".")[0]} & FORBIDDEN_MODULES
        elif isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            used |= {called} & FORBIDDEN_CALLS

    assert used - EXCUSED.get(name, set()) == set()


# ---- in what is done ----

WATCH = """\
import os, sys

_kinds = ("open", "import", "exec", "compile", "pickle.find_class", "marshal.loads", "os.system", "os.exec",
          "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.link",
          "os.symlink", "os.truncate", "subprocess.Popen", "socket.connect", "ctypes.dlopen", "shutil.rmtree",
          "code.__new__", "sqlite3.connect", "urllib.Request", "glob.glob", "tempfile.mkstemp")
_out = os.open(os.path.join(os.environ["WATCHED"], str(os.getpid())), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def _watch(event, arguments):
    if event in _kinds or event.startswith("pickle"):
        os.write(_out, (event + " " + ascii(arguments)[:2000] + "\\n").encode())

sys.addaudithook(_watch)
"""
"""Runs first in every Python that is started with its folder on the path: the loader's front and all its workers."""

MARK = "w1re_m4rk"
"""Is in every hostile name; whatever is opened or imported because of one would show it."""

HOSTILE = [
    MARK,
    f"../{MARK}",
    f"../../../../../../../../tmp/{MARK}",
    f"/{MARK}/x.npy",
    f"{MARK}/../digits",
    f"digits/{MARK}",
    f"{MARK}.npy",
    f"file:///{MARK}",
    f"{MARK}:function",
    f"{MARK}.function",
    f"__import__('{MARK}')",
    f"${{{MARK}}}",
    f"$({MARK})",
    f"`{MARK}`",
    f"; {MARK}",
    f"{{0.__class__.{MARK}}}",
    f"%({MARK})s",
    f"\0{MARK}",
    f"{MARK}\n{MARK}",
    f"c{MARK}\nsystem\n(S'true'\ntR.",
]


@pytest.fixture(scope="module")
def watched(
    two_datasets: Path, tmp_path_factory: pytest.TempPathFactory, start_shared_loader: Callable[..., Any]
) -> tuple[Any, Path]:
    """A loader that is watched, and where its processes write what they did.

    A module and a file of the mark's name lie where they would be found: an import or an opening would succeed.
    """
    first, seen = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("seen")
    (first / "sitecustomize.py").write_text(WATCH)
    (first / f"{MARK}.py").write_text("raise SystemExit('imported')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(first), prepend=os.pathsep)
        patch.setenv("WATCHED", str(seen))
        started = start_shared_loader(two_datasets, "--workers", "2")
    return started, seen


def test_hostile_names_are_never_opened_imported_run_or_unpickled(
    watched: tuple[Any, Path], raw: Callable[..., Any]
) -> None:
    loader, seen = watched
    with raw(loader.address) as caller:
        fingerprints = {dataset.name: dataset.fingerprint for dataset in caller.describe().datasets}
        honest = {"dataset": "digits", "fingerprint": fingerprints["digits"], "view": "train", "order": "shuffle"}
        keys = [
            pb.Key(**(honest | {field: name}), rows=3) for name in HOSTILE for field in ("dataset", "view", "order")
        ]
        keys += [pb.Key(**(honest | {"fingerprint": name.encode()}), rows=3) for name in HOSTILE]
        keys += [pb.Key(**honest, rows=rows, offset=10, epoch=2**64 - 1, seed=2**64 - 1) for rows in (1, 7, 101)]
        wants = [pb.Want(ticket=ticket, key=key) for ticket, key in enumerate(keys)]

        wires = list(caller.fetch(pb.FetchRequest(protocol=PROTOCOL, wants=wants).SerializeToString()))
        for name in HOSTILE:
            caller.metadata = (("x-name", json.dumps(name)), (rpc.AUTHORIZATION, f"Bearer {json.dumps(name)}"))
            caller.describe()

    pieces = [piece for wire in wires for piece in frames.decode(wire).pieces]
    assert len({piece.ticket for piece in pieces}) == len(keys)
    assert sum(piece.failure is None for piece in pieces) == 3
    events = [line for file in seen.iterdir() for line in file.read_text().splitlines()]
    assert len(list(seen.iterdir())) == 3  # the front and two workers: all of them were watched
    assert any(line.startswith("import ('feedline_server.rpc.service'") for line in events)
    assert any(line.startswith("open (") and "digits/x.npy" in line for line in events)
    assert [line for line in events if MARK in line] == []


def test_what_is_unpickled_between_the_loaders_own_processes_is_its_own(
    watched: tuple[Any, Path], raw: Callable[..., Any]
) -> None:
    """The front and its workers speak over sockets that nobody else has; what they name is looked at all the same."""
    loader, seen = watched
    with raw(loader.address) as caller:
        assert caller.status().counters["workers"] == 2

    named = {
        line.split("'")[1].partition(".")[0]
        for file in seen.iterdir()
        for line in file.read_text().splitlines()
        if line.startswith("pickle.find_class")
    }
    assert named
    assert named <= {
        "feedline_server",
        "feedline_wire",
        "numpy",
        "collections",
        "builtins",
        "copyreg",
        "_codecs",
        "pathlib",
    }
