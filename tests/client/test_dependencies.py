"""What a trainer's install brings, and what it does not."""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_trainer_needs_numpy_grpc_and_protobuf_and_nothing_else() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    installed = [each for each in requires("feedline") or [] if "extra ==" not in each]

    for found in (declared, installed):
        assert sorted(re.split(r"[<>=~! ]", each)[0] for each in found) == ["grpcio", "numpy", "protobuf"]
