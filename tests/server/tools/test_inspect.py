"""What would be served is shown without serving it, and what is wrong with it."""

import json
from pathlib import Path

import numpy as np
import pytest

from feedline_server.__main__ import main


@pytest.fixture
def gestures(tmp_path: Path) -> Path:
    """A loader.toml; two classes of 3 and 2 files of 4 floats, the last file cut short."""
    for number, name in enumerate(["a/0", "a/1", "a/2", "b/0", "b/1"]):
        path = tmp_path / "gestures" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full(4, number, np.float32))
    path.write_bytes(path.read_bytes()[:-3])
    toml = tmp_path / "loader.toml"
    toml.write_text('[datasets.gestures]\nkind = "class_folders"\npath = "gestures"\n')
    return toml


def inspected(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["inspect", *words])
    return code, capsys.readouterr().out


def test_a_dataset_is_described_in_words(gestures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = inspected(capsys, str(gestures))

    assert code == 0
    for text in (
        "dataset gestures (class_folders): 5 samples",
        "views        train 5",
        "columns      x float32(4), y int64()",
        "batch        (x, y)",
        "size         0.0 MB as it is sent",
        "categories   y: 0 = a, 1 = b",
        "classes      train  a 3, b 2",
    ):
        assert text in shown


def test_reading_it_finds_the_bad_sample(gestures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = inspected(capsys, str(gestures), "--read")

    assert code == 1
    assert "read         5 samples: 1 BAD" in shown
    assert "train sample 4: " in shown
    assert "1.npy" in shown


def test_a_bad_sample_is_told_without_the_lines_that_looked_for_it(
    columns_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its batch is read first, and the error of that is not the sample's story."""
    (columns_folder / "my_looked_at.py").write_text(
        "def refuse(y):\n    if y == 107:\n        raise ValueError('no good')\n    return y\n"
    )
    toml = columns_folder / "loader.toml"
    toml.write_text('[[datasets.d.transforms]]\ncode = "my_looked_at:refuse"\ncolumn = "y"\n[datasets.d]\n')

    code, shown = inspected(capsys, str(toml), "--read")

    assert code == 1
    assert "train sample 7: dataset 'd', transforms.0 (my_looked_at:refuse): sample 7: ValueError: no good" in shown
    assert shown.count("Traceback") == 1


def test_a_generator_is_looked_at_with_its_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_stream.py").write_text(
        "import numpy as np\n\ndef load():\n    while True:\n        yield np.zeros((4, 3)), np.zeros(4)\n"
    )
    monkeypatch.chdir(tmp_path)

    code, shown = inspected(capsys, "my_stream:load", "--steps-per-epoch", "7")

    assert code == 0
    assert "dataset my_stream (python): 7 batches" in shown


@pytest.mark.parametrize("policy", ["skip", "substitute"])
def test_a_bad_sample_is_listed_also_where_it_would_not_be_served(
    gestures: Path, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    gestures.write_text(f'{gestures.read_text()}on_bad_sample = "{policy}"\n')

    code, shown = inspected(capsys, str(gestures), "--read", "--json")

    found = json.loads(shown)
    assert code == 1
    assert found["bad_samples"] == 1
    assert "cut short" in found["bad"][0]["reason"]


def test_classes_are_counted_where_a_target_shows_them(
    columns_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(columns_folder / "y.npy", np.array([7] * 9 + [3] * 3))

    code, shown = inspected(capsys, str(columns_folder), "--json")

    assert code == 0
    assert json.loads(shown)["classes"] == {"train": {"3": 3, "7": 9}}


def test_classes_that_are_known_are_counted_however_many_samples_there_are(
    gestures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedline_server.tools.inspect.findings.COUNTED", 1)

    _, shown = inspected(capsys, str(gestures), "--json")

    assert json.loads(shown)["classes"] == {"train": {"a": 3, "b": 2}}


def test_the_classes_of_each_view_are_counted(gestures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gestures.write_text(f"{gestures.read_text()}validation_split = 0.5\n")

    _, shown = inspected(capsys, str(gestures))

    (train, validation) = [line.split() for line in shown.splitlines() if line.startswith("  classes")]
    assert (train[:2], validation[:2]) == (["classes", "train"], ["classes", "validation"])
    counts = [int(word.rstrip(",")) for word in (*train[3::2], *validation[3::2])]
    assert sum(counts) == 5
    assert counts[0] + counts[2] == 3


def test_one_dataset_that_cannot_be_served_hides_nothing_of_another(
    gestures: Path, columns_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = gestures.parent / "bad"
    bad.mkdir()
    np.save(bad / "x.npy", np.zeros(3))
    np.save(bad / "y.npy", np.zeros(4))
    gestures.write_text(f'[datasets.bad]\nkind="columns"\npath="bad"\n[datasets.good]\npath="{columns_folder}"\n')

    code, shown = inspected(capsys, str(gestures))

    assert code == 1
    assert "dataset bad (columns) cannot be served" in shown
    assert "x.npy has 3 samples and y.npy has 4" in shown
    assert "dataset good (columns): 12 samples" in shown


def test_what_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["inspect", str(tmp_path / "nowhere")])

    assert code == 1
    assert "there is no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["inspect", "DATA"], ["convert", "DATA", "OUT"]], ids=lambda words: words[0])
def test_what_serves_nobody_does_not_ask_where_it_would_listen(
    words: list[str], columns_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an image FEEDLINE_LISTEN is set, and `docker run IMAGE inspect …` was refused for want of a certificate."""
    monkeypatch.setenv("FEEDLINE_LISTEN", "0.0.0.0:50051")
    places = {"DATA": str(columns_folder), "OUT": str(tmp_path / "out")}

    assert main([places.get(word, word) for word in words]) == 0
