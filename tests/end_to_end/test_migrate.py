"""docs/migrate.md is true: both sides of each section are run on the same data, and train the same samples.

Of a section are run the block that begins with `# before`, and, with a loader that is started as its `feedline serve`
says, the one that begins with `# after`. Blocks that begin with the name of a file are that file.
"""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.timeout(900),  # a loader and a framework in each, which take a busy machine minutes
    pytest.mark.filterwarnings("ignore"),  # those of frameworks, about what the page shows as people have it
]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migrate.md"

SAMPLES = 96
"""A multiple of the batch size and of two ranks: what becomes of a rest differs, and the page says how."""

EPOCHS = 2

START_S = 800.0
"""A worker imports the section's framework, which takes a busy machine a minute."""

LOOK_S = 0.02

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(slots=True)
class Section:
    """What the page shows below one heading."""

    before: str = ""
    after: str = ""
    serve: list[str] = field(default_factory=list)
    """The words behind `feedline`."""
    files: dict[str, str] = field(default_factory=dict)


def sections() -> dict[str, Section]:
    found: dict[str, Section] = {}
    for part in PAGE.read_text().split("\n## ")[1:]:
        section = found.setdefault(part.splitlines()[0], Section())
        for kind, code in BLOCK.findall(part):
            name = code.splitlines()[0].removeprefix("# ").split(":")[0]
            if kind == "bash":
                section.serve = code.split()[1:]
            elif name in {"before", "after"}:
                setattr(section, name, code)
            else:
                section.files[name] = code
    return found


SECTIONS = sections()


# ---- what the code of the page finds where it runs ----


class Trained:
    """What was trained, sample by sample."""

    def __init__(self) -> None:
        self.samples: list[tuple[bytes, float | tuple[float, ...]]] = []
        self.kinds: set[tuple[str, ...]] = set()
        """Dtypes and shapes of x and y, without the number of rows."""

    def step(self, x: Any, y: Any) -> None:
        """Note a batch, rounded: multiplied by 1 / 255 and divided by 255 differ in the last bit."""
        x, y = np.asarray(x), np.asarray(y)
        self.kinds.add((f"{x.dtype} {x.shape[1:]}", f"{y.dtype} {y.shape[1:]}"))
        for row, target in zip(x, y, strict=True):
            value = tuple(map(float, target)) if target.ndim else float(target)
            self.samples.append((row.astype(np.float64).round(5).tobytes(), value))

    def epochs(self) -> list[Counter[Any]]:
        """The samples of each epoch, as a multiset."""
        assert len(self.samples) == EPOCHS * SAMPLES
        return [Counter(self.samples[:SAMPLES]), Counter(self.samples[SAMPLES:])]


def keras_model(trained: Trained) -> dict[str, Any]:
    import keras

    class Model(keras.Model):  # type: ignore[misc]  # keras publishes no types
        def train_step(self, data: Any) -> dict[str, Any]:
            trained.step(*data)
            return {"loss": 0.0}

    model = Model()
    model.compile(run_eagerly=True)
    return {"model": model}


def train_step(trained: Trained) -> dict[str, Any]:
    return {"train_step": trained.step}


def lightning_trainer(trained: Trained) -> dict[str, Any]:
    import lightning
    import torch

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            trained.step(*batch)
            return self.layer(torch.ones(1, 1)).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    return {"model": Model(), "trainer": trainer}


# ---- data ----


def numbered(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Samples that all differ, and targets."""
    x = np.random.default_rng(0).integers(0, 256, (SAMPLES, *shape), np.uint8)
    return x, np.arange(SAMPLES) % 3


def volumes() -> None:
    import json

    x, y = numbered((4, 5))
    for number, volume in enumerate(x):
        np.save(f"volumes/id-{number}.npy", volume.astype(np.float32))
    ids = [f"id-{number}" for number in range(SAMPLES)]
    Path("volumes/partition.json").write_text(json.dumps({"train": ids}))
    Path("volumes/labels.json").write_text(json.dumps(dict(zip(ids, y.tolist(), strict=True))))


def columns(folder: str) -> None:
    x, y = numbered((6,))
    np.save(f"{folder}/x.npy", x)
    np.save(f"{folder}/y.npy", y)


def leaves() -> None:
    import cv2

    x, y = numbered((24, 32, 3))
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        folder = Path("leaves") / ["healthy", "mildew", "rust"][label]
        folder.mkdir(exist_ok=True)
        assert cv2.imwrite(str(folder / f"{number}.png"), image)


def reviews() -> None:
    import datasets

    x, y = numbered((6,))
    table = {"input_ids": x.astype(np.int64).tolist(), "label": y.tolist()}
    datasets.Dataset.from_dict(table).save_to_disk("reviews")


def shards(folder: str, compression: str | None = None) -> None:
    # It holds numpy below 2.2 and transformers below 5, so it is in no group but `bench`.
    writers = pytest.importorskip("streaming", reason="needs mosaicml-streaming, of the group bench")

    x, y = numbered((6,))
    columns = {"x": "ndarray:uint8:6", "y": "int"}
    with writers.MDSWriter(out=folder, columns=columns, compression=compression, size_limit=512) as writer:
        for sample, label in zip(x, y, strict=True):
            writer.write({"x": sample, "y": int(label)})
    assert len(list(Path(folder).glob("*.mds*"))) > 1


def stand_in_for_torchvision() -> None:
    """In the current folder, where PyPI's does not load beside a build of torch for the CPU: streaming imports it."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name, text in {
            "__init__": "",
            "datasets": "class VisionDataset: ...",
            "transforms/__init__": "",
            "transforms/functional": "def to_tensor(image): ...",
        }.items():
            path = Path("torchvision") / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]


# ---- running ----


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, where modules are found; what was imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[[list[str]], str]]:
    """Start a loader in the current folder with these words behind `feedline`; its address."""
    started: list[subprocess.Popen[bytes]] = []
    listening: list[subprocess.Popen[bytes]] = []

    def start(words: list[str]) -> str:
        port, log = folder / "port", folder / "log"
        with log.open("wb") as out:
            loader = subprocess.Popen(
                [sys.executable, "-m", "feedline", *words, "--listen", "127.0.0.1:0", "--port-file", str(port)],
                env=os.environ | {"FEEDLINE_WORKERS": "1"}, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        started.append(loader)
        until = time.monotonic() + START_S
        while not port.exists():
            assert loader.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(LOOK_S)
        listening.append(loader)
        return f"127.0.0.1:{port.read_text().strip()}"

    yield start
    for loader in started:
        loader.terminate()
        code = loader.wait(START_S)
        assert code == 0 or loader not in listening  # one that has just begun ends as any process does


Namespace = Callable[[Trained], dict[str, Any]]


@pytest.fixture
def both(folder: Path, serve: Callable[[list[str]], str]) -> Callable[..., tuple[list[Trained], list[Trained]]]:
    """Run both sides of a section, once for each rank; what each trained."""

    def run(heading: str, namespace: Namespace, ranks: int = 1) -> tuple[list[Trained], list[Trained]]:
        section = SECTIONS[heading]
        for name, code in section.files.items():
            (folder / name).write_text(code)
        address = serve(section.serve)

        def trained(code: str) -> Iterator[Trained]:
            for rank in range(ranks):
                record = Trained()
                exec(compile(code, heading, "exec"), {"rank": rank, "world": ranks, **namespace(record)})
                yield record

        return list(trained(section.before)), list(trained(section.after.replace("loader:50051", address)))

    return run


def test_every_section_has_both_sides_and_is_run_here() -> None:
    source = Path(__file__).read_text()

    assert len(SECTIONS) == 9
    for heading, section in SECTIONS.items():
        assert section.before, heading
        assert section.after, heading
        assert section.serve[0] == "serve", heading
        assert f'both("{heading}", ' in source, f"no test runs {heading}"


# ---- the sections ----

Both = Callable[..., tuple[list[Trained], list[Trained]]]


def of_one(sides: tuple[list[Trained], list[Trained]]) -> tuple[Trained, Trained]:
    (before,), (after,) = sides
    return before, after


@pytest.mark.frameworks
def test_a_keras_sequence(folder: Path, both: Both) -> None:
    (folder / "volumes").mkdir()
    volumes()

    before, after = of_one(both("A Keras Sequence", keras_model))

    assert before.epochs() == after.epochs()
    assert before.kinds == after.kinds == {("float32 (4, 5)", "float64 (3,)")}
    assert after.samples[:SAMPLES] != after.samples[SAMPLES:]


@pytest.mark.frameworks
def test_a_generator(folder: Path, both: Both) -> None:
    (folder / "series").mkdir()
    columns("series")

    before, after = of_one(both("A generator with while True", keras_model))

    assert len(after.samples) == len(before.samples) == EPOCHS * SAMPLES
    assert set(after.samples) == set(before.samples)  # an epoch need not begin where the generator begins its list anew
    assert before.kinds == after.kinds == {("uint8 (6,)", "int64 ()")}


@pytest.mark.frameworks
def test_image_data_generator(folder: Path, both: Both) -> None:
    (folder / "leaves").mkdir()
    leaves()

    before, after = of_one(both("ImageDataGenerator.flow_from_directory", keras_model))

    assert before.epochs() == after.epochs()
    assert before.kinds == after.kinds == {("float32 (24, 32, 3)", "float32 (3,)")}


@pytest.mark.frameworks
def test_image_dataset_from_directory(folder: Path, both: Both) -> None:
    (folder / "leaves").mkdir()
    leaves()

    before, after = of_one(both("image_dataset_from_directory", keras_model))

    assert before.epochs() == after.epochs()
    assert before.kinds == {("float32 (24, 32, 3)", "int32 ()")}
    assert after.kinds == {("float32 (24, 32, 3)", "int64 ()")}


@pytest.mark.frameworks
def test_a_dataloader_with_a_distributed_sampler(folder: Path, both: Both) -> None:
    (folder / "volumes").mkdir()
    columns("volumes")

    before, after = both("torch DataLoader and DistributedSampler", train_step, ranks=2)

    def epoch(side: list[Trained], number: int) -> Counter[Any]:
        half = SAMPLES // 2
        return Counter(sample for rank in side for sample in rank.samples[number * half : (number + 1) * half])

    assert [epoch(before, 0), epoch(before, 1)] == [epoch(after, 0), epoch(after, 1)]
    assert set(epoch(after, 0).values()) == {1}
    assert before[0].kinds == after[0].kinds == {("float32 (6,)", "int64 ()")}


@pytest.mark.frameworks
def test_a_lightning_data_module(folder: Path, both: Both) -> None:
    (folder / "volumes").mkdir()
    columns("volumes")
    (folder / "my_dataset.py").write_text(SECTIONS["torch DataLoader and DistributedSampler"].files["my_dataset.py"])

    before, after = of_one(both("A Lightning DataModule", lightning_trainer))

    assert before.epochs() == after.epochs()
    assert before.kinds == after.kinds == {("float32 (6,)", "int64 ()")}


@pytest.mark.frameworks
def test_hugging_face_datasets(folder: Path, both: Both) -> None:
    reviews()

    before, after = of_one(both("Hugging Face datasets", train_step))

    assert Counter(before.samples) == Counter(after.samples)
    assert len(before.samples) == SAMPLES
    assert before.kinds == after.kinds == {("int64 (6,)", "int64 ()")}


@pytest.mark.frameworks
def test_tf_data_service(folder: Path, both: Both) -> None:
    (folder / "series").mkdir()
    columns("series")

    before, after = of_one(both("tf.data service", keras_model))

    assert before.epochs() == after.epochs()
    assert before.kinds == after.kinds == {("float32 (6,)", "int64 ()")}


@pytest.mark.engines
def test_mosaicml_streaming(folder: Path, both: Both) -> None:
    stand_in_for_torchvision()
    shards("shards")

    before, after = of_one(both("MosaicML Streaming", train_step))

    assert Counter(before.samples) == Counter(after.samples)
    assert len(before.samples) == SAMPLES
    assert before.kinds == after.kinds == {("uint8 (6,)", "int64 ()")}


@pytest.mark.engines
def test_shards_of_mosaicml_streaming_that_are_packed_are_unpacked_by_reading_them(folder: Path) -> None:
    stand_in_for_torchvision()
    shards("packed", compression="zstd:7")
    files = SECTIONS["MosaicML Streaming"].files
    (folder / "my_shards.py").write_text(files["my_shards.py"])

    exec(files["unpack"], {})

    from my_shards import Shards  # type: ignore[import-not-found]

    x, y = numbered((6,))
    read = Shards("packed")
    assert [(read[k]["x"].tolist(), read[k]["y"]) for k in range(len(read))] == list(zip(x.tolist(), y, strict=True))
