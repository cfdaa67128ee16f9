"""Fuzzes what a trainer reads from a loader: frames, headers, failures, what is sealed, and the arrays that come of it.

Run by scripts/fuzz. What is looked for stands in reading.py, which test_reading.py asks too, for a moment.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["feedline", "feedline_wire", "reading"]):
    import reading


def main() -> None:
    """`frames.py CORPUS [libFuzzer's options]`: begin with the seeds, keep what finds something new in CORPUS."""
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate([*reading.seeds(), *reading.lane_seeds()]):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *sys.argv[2:], str(corpus)], read)
    atheris.Fuzz()


def read(wire: bytes) -> None:
    """As a message of the stream, and as an answer on the sealed lane."""
    reading.read(wire)
    reading.read_lane(wire)


if __name__ == "__main__":
    main()
