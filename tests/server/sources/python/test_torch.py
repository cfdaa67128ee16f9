"""Torch and albumentations in the operator's code: their generators are keyed, their tensors are arrays."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from feedline_server.batches.dataset import Dataset, open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import PythonConfig
from feedline_server.sources.python import streams
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.source import SampleRequest

pytestmark = pytest.mark.frameworks

Open = Callable[..., Dataset]


def read(dataset: Dataset, *ids: int, epoch: int = 0, column: str = "x") -> bytes:
    request = SampleRequest(np.array(ids, np.int64), np.full(len(ids), epoch), 0)
    found = dataset.source.draw(request)[column]  # type: ignore[union-attr]  # it is a GeneratedSource
    return (found.values if isinstance(found, Ragged) else found).tobytes()


AUGMENTED = """
    import albumentations
    images = np.random.default_rng(0).integers(0, 255, (18, 24, 24, 3), np.uint8)
    class Augmented:
        def __init__(self):
            self.augment = albumentations.Compose([
                albumentations.RandomCrop(16, 16),
                albumentations.OneOf([albumentations.HorizontalFlip(p=1), albumentations.Rotate(p=1)]),
                albumentations.RandomBrightnessContrast(p=1),
            ], seed=3)
        def __len__(self): return len(images)
        def __getitem__(self, i): return self.augment(image=images[i])["image"], i
    class Batches(Augmented):
        def __len__(self): return 3
        def __getitem__(self, k):
            return np.stack([Augmented.__getitem__(self, i)[0] for i in range(6 * k, 6 * k + 6)]), np.arange(6)
        def on_epoch_end(self): pass
"""


@pytest.mark.parametrize(("name", "units"), [("m:Augmented", 18), ("m:Batches", 3)])
@pytest.mark.parametrize("deterministic", [True, False])
def test_images_of_albumentations_are_others_in_every_epoch_and_the_same_when_read_again(
    opened: Open, name: str, units: int, deterministic: bool
) -> None:
    """All 18 were those of the epoch before with deterministic = false; without, the loader did not start."""
    one, another = (opened(AUGMENTED, name, deterministic=deterministic) for _ in range(2))
    epochs = [[read(one, unit, epoch=epoch) for unit in range(units)] for epoch in (0, 1, 2)]

    assert not list(one.source.check())  # type: ignore[union-attr]  # it is a PythonSource
    assert len({image for epoch in epochs for image in epoch}) == 3 * units
    assert read(another, units - 1, epoch=2) == epochs[2][-1]
    assert read(one, 0, epoch=1) == epochs[1][0]


def test_generators_of_torch_are_keyed_the_global_one_and_those_of_the_object(opened: Open) -> None:
    text = """
    import torch
    class made:
        def __init__(self): self.deep = [torch.Generator()]
        def __len__(self): return 9
        def __getitem__(self, i): return torch.rand(2), torch.rand(2, generator=self.deep[0])
    """
    one, another = opened(text), opened(text)
    first = [read(one, 4, epoch=epoch, column=column) for epoch in (0, 1) for column in "xy"]

    assert len(set(first)) == 4
    assert [read(another, 4, epoch=epoch, column=column) for epoch in (0, 1) for column in "xy"] == first


def test_tensors_are_collated_as_the_arrays_that_they_are(opened: Open) -> None:
    dataset = opened(
        """
        import torch
        class made:
            def __len__(self): return 9
            def __getitem__(self, i):
                c = torch.arange(i, i + 4)
                return c[:-1], {"half": c.half(), "n": torch.tensor(i)}
        """
    )

    batch = dataset.source.draw(SampleRequest(np.array([2, 5]), np.zeros(2, np.int64), 0))  # type: ignore[union-attr]

    assert [(name, array.dtype.name) for name, array in batch.items()] == [
        ("x", "int64"),
        ("half", "float16"),
        ("n", "int64"),
    ]
    assert batch["x"].tolist() == [[2, 3, 4], [5, 6, 7]]
    assert batch["half"].tolist() == [[2, 3, 4, 5], [5, 6, 7, 8]]
    assert batch["n"].tolist() == [2, 5]


def test_a_split_by_torch_at_module_level_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Torch begins with a number of the system; a worker then said that files changed."""
    (tmp_path / "split_by_torch.py").write_text(
        "import torch\ntrain, validation = torch.utils.data.random_split(list(range(100)), [80, 20])\n"
    )
    views = {"train": "split_by_torch:train", "validation": "split_by_torch:validation"}
    config = PythonConfig.declare(path=tmp_path, views=views)

    found = []
    for _ in range(2):
        with closing(open_dataset("d", config)) as dataset:
            found.append((fingerprint(dataset, config), read(dataset, *range(100))))

    assert found[0] == found[1]
    assert sorted(np.frombuffer(found[0][1], np.int64)) == list(range(100))


def test_an_iterable_dataset_asks_torch_which_worker_it_is_in(opened: Open) -> None:
    text = """
    import torch
    class made(torch.utils.data.IterableDataset):
        def __iter__(self):
            info = torch.utils.data.get_worker_info()
            for k in range(info.id if info else 0, 10, info.num_workers if info else 1): yield torch.full((2,), k)
    """
    found = []
    for worker in (0, 1):
        streams.be_worker(worker, 2)
        dataset = opened(text, steps_per_epoch=10)
        found += np.frombuffer(read(dataset, *[0] * 5), np.int64).reshape(5, 2)[:, 0].tolist()
        assert not dataset.is_for_one_worker
    streams.be_worker(0, 1)

    assert sorted(found) == list(range(10))
    plain = text.replace("torch.utils.data.get_worker_info()", "None")
    assert opened(plain, steps_per_epoch=9).is_for_one_worker
