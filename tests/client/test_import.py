"""`import feedline` brings what each trainer needs and nothing else: it is in the way of every start."""

import subprocess
import sys

NEEDED_LATER = (
    "cryptography", "email", "feedline_wire.status", "feedline_wire.verdict", "importlib.metadata", "keras",
    "numcodecs", "secrets", "statistics", "torch", "zipfile",
)  # fmt: skip
"""Each is imported where a question comes up that needs it."""


def test_importing_it_brings_nothing_that_only_some_need() -> None:
    code = (
        "import grpc, google.protobuf.internal.builder, numpy, sys; before = set(sys.modules); import feedline; "
        f"print(sorted((set(sys.modules) - before) & {set(NEEDED_LATER)}))"
    )

    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)

    assert done.stdout.strip() == "[]"
