"""torchvision in torch's DataLoader: photographs opened by Pillow and resized, or cropped at random, by its transforms.

As its examples for ImageNet have it: files are decoded in the trainer's worker processes, a sample at a time, and
collated there.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.content import Array

try:
    from torchvision import transforms
except RuntimeError:
    # PyPI's torchvision has its operators for torch with CUDA alone. Transforms need none, but the import names two.
    _operators = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import transforms


class Photographs(Dataset[Any]):
    """A map dataset of (image, number)."""

    def __init__(self, folder: Path, change: Any) -> None:  # a transform of torchvision
        self.paths = sorted((folder / "images").glob("*.jpg"))
        self.change = change

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[i]) as image:
            return self.change(image.convert("RGB")), i


def batches(options: Mapping[str, Any]) -> Iterator[tuple[Array, Array | None]]:
    width, height = options["size"]
    sized = transforms.RandomResizedCrop if options["pipeline"] == "random crop" else transforms.Resize
    torch.set_num_threads(1)
    loader: DataLoader[Any] = DataLoader(
        Photographs(Path(options["folder"]), transforms.Compose([sized((height, width)), transforms.PILToTensor()])),
        batch_size=options["batch"], shuffle=True, drop_last=True,
        num_workers=options["workers"], persistent_workers=True,
    )  # fmt: skip
    while True:
        for x, y in loader:
            yield x.numpy(), y.numpy()
