"""Datasets as users have them are served by one command, or by the one line that its refusal prints."""

import argparse
from pathlib import Path

import numpy as np
import pytest
from usual_datasets import CASES, Case, mended, numpy_files, run, sample_of, served_by, spark_parquet

import feedline
from feedline_server.__main__ import main
from feedline_server.batches.dataset import open_dataset
from feedline_server.settings.settings import load_settings
from feedline_server.sources.source import gathered
from feedline_wire.command_line import DATASET, declare_dataset
from feedline_wire.errors import FeedlineError
from feedline_wire.structure import column_names


def served(words: list[str]) -> dict[str, list[tuple[int, int]]]:
    """What `feedline serve` would serve: x and y of every sample of each view. Raises FeedlineError."""
    parser = argparse.ArgumentParser()
    declare_dataset(parser)
    args = parser.parse_args(words[2:])
    [(name, config)] = load_settings(Path(words[1]), {key: getattr(args, key) for key in DATASET}).datasets.items()
    dataset = open_dataset(name, config)
    inputs, targets = column_names(dataset.structure)
    found = {}
    for view in dataset.views.values():
        batch = gathered(dataset.source, view.ids(np.arange(view.samples)), dataset.columns)
        found[view.name] = list(map(sample_of, batch[inputs], batch[targets]))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_usual_dataset_is_served_by_one_command_or_the_printed_line(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case.make(tmp_path)
    words = case.command(tmp_path)

    def done() -> dict[str, list[tuple[int, int]]]:
        if words[0] == "serve":
            return served(words)
        if main(words):
            raise FeedlineError(capsys.readouterr().err)
        return served(["serve", words[2]])

    if case.says:
        with pytest.raises(FeedlineError) as refused:
            done()
        words = mended(case, words, str(refused.value))

    assert done() == {view: case.samples(view) for view in case.views}


def test_its_commands_are_run_by_the_script(tmp_path: Path) -> None:
    """`scripts/usual-datasets` does it with all of them."""
    (case,) = (case for case in CASES if case.name == "photographs of two cameras")
    lines: list[str] = []

    found = run(case, tmp_path, lines.append)

    assert lines == [f"feedline serve {tmp_path}", f"    it says: feedline serve {tmp_path} --size 8x6"]
    assert sorted(found["train"]) == sorted(case.samples("train"))


def test_several_paths_are_served_by_one_command(tmp_path: Path) -> None:
    for folder, make in (("files", numpy_files), ("table", spark_parquet)):
        (tmp_path / folder).mkdir()
        make(tmp_path / folder)

    with (
        served_by(["serve", str(tmp_path / "files"), str(tmp_path / "table")]) as (_, port),
        feedline.connect(f"127.0.0.1:{port}") as loader,
    ):
        images = [label for _, labels in loader.feed("test", dataset="files").epoch(0) for label in labels.tolist()]
        rows = [label for _, labels in loader.feed("train", dataset="table").epoch(0) for label in labels.tolist()]

    assert sorted(images) == list(range(6))
    assert sorted(rows) == list(range(20))
