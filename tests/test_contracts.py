"""Who may import whom, and what a process must not load: claims about the code, not about its behaviour.

The contracts themselves stand in pyproject.toml; here they are run, and here is what only a started process can show.
"""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FRAMEWORKS = {"jax", "keras", "tensorflow", "torch"}


def test_every_import_contract_is_kept() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    linter = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert linter.returncode == 0, linter.stdout + linter.stderr


def test_no_file_of_the_library_has_more_than_400_lines() -> None:
    files = [path for part in ("protos", "server", "client") for path in (ROOT / part).rglob("*.py")]
    lines = {path: len(path.read_text().splitlines()) for path in files if not path.name.endswith("_pb2.py")}

    assert {str(path.relative_to(ROOT)): number for path, number in lines.items() if number > 400} == {}


def test_importing_feedline_loads_no_framework() -> None:
    """Importing TensorFlow takes seconds and a gigabyte; a torch trainer must not pay for it."""
    assert _loaded_by("import feedline") & FRAMEWORKS == set()


def test_a_worker_loads_neither_grpc_nor_a_framework_nor_what_only_the_front_needs() -> None:
    """Each costs seconds and memory in every worker; gRPC's threads do not survive a fork by the user's code.

    Without the others it starts in less than twice the time that numpy takes.
    """
    front = {"grpc", "grpc_health", "pydantic", "structlog", "google"}

    assert (
        _loaded_by("import feedline_server.workers.worker") & (FRAMEWORKS | front | {"cv2", "h5py", "pyarrow"}) == set()
    )


def test_the_command_line_answers_without_loading_a_framework_or_the_server() -> None:
    assert _loaded_by("import feedline.cli") & (FRAMEWORKS | {"feedline_server"}) == set()


def test_a_loader_reads_its_command_line_before_it_loads_anything_slow() -> None:
    """A SIGTERM that comes to process 1 of a container before its handler is lost."""
    slow = {"cv2", "google", "grpc", "numpy", "pydantic", "structlog"}

    assert _loaded_by("import feedline_server.__main__") & slow == set()


@pytest.mark.parametrize(
    "statement", ["import feedline, feedline.testing, feedline.cli", "import feedline_wire.frames"]
)
def test_the_base_install_is_enough(statement: str) -> None:
    """`pip install feedline` brings these packages and nothing else; it lives beside whatever a framework pins."""
    base = {"feedline", "grpcio", "numpy", "protobuf", "typing_extensions"}
    distributions = importlib.metadata.packages_distributions()
    foreign = sorted(name for name, brought_by in distributions.items() if not base & set(brought_by))
    assert "pydantic" in foreign

    # What sys.modules has None for cannot be imported.
    _loaded_by(f"sys.modules.update(dict.fromkeys({foreign}))\n{statement}")


def _loaded_by(statement: str) -> set[str]:
    """The top-level modules in a new interpreter after one statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))
