"""Datasets of torch as the public has them, in our own words, with small data; each names where its pattern is from."""

import random

import albumentations
import h5py
import numpy as np
import torch
from torch.utils.data import Dataset

random.seed(42)


class OpenedLate(Dataset):
    """An HDF5 file that is opened by the first sample, one entry a sample. StanislasDucotterd/MFoE."""

    def __init__(self):
        super().__init__()
        self.dataset = None
        with h5py.File("entries.h5", "r") as file:
            self.names = list(file.keys())

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if self.dataset is None:
            self.dataset = h5py.File("entries.h5", "r")
        return torch.Tensor(np.array(self.dataset[self.names[index]]))


class ShuffledNames(OpenedLate):
    """The same, with names that the constructor shuffles after the module has seeded `random`.
    axgoujon/convex_ridge_regularizers."""

    def __init__(self):
        super().__init__()
        random.shuffle(self.names)


class Frames(Dataset):
    """One frame of a scene, drawn with numpy. belaalb/frameGAN."""

    def __init__(self):
        with h5py.File("scans.h5", "r") as file:
            self.length = len(file["scans"])
        self.file = None

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not self.file:
            self.file = h5py.File("scans.h5", "r")
        scene = torch.from_numpy(self.file["scans"][index]).float()
        return scene[np.random.randint(len(scene))]


class Characters(Dataset):
    """Pieces of a text and the same a character later. karpathy/minGPT."""

    def __init__(self):
        text = "to be or not to be, that is the question " * 3
        self.number = {letter: at for at, letter in enumerate(sorted(set(text)))}
        self.text, self.block = text, 16

    def __len__(self):
        return len(self.text) - self.block

    def __getitem__(self, index):
        piece = [self.number[letter] for letter in self.text[index : index + self.block + 1]]
        return torch.tensor(piece[:-1], dtype=torch.long), torch.tensor(piece[1:], dtype=torch.long)


class Augmented(Dataset):
    """Images and masks through albumentations, with torch's noise on top. After the examples of
    qubvel-org/segmentation_models.pytorch."""

    def __init__(self):
        self.images = np.load("images.npy").astype(np.uint8)
        self.augmentation = albumentations.Compose(
            [albumentations.HorizontalFlip(p=0.5), albumentations.RandomCrop(8, 8), albumentations.GaussNoise(p=0.3)]
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = np.repeat(self.images[index][..., None], 3, axis=-1)
        found = self.augmentation(image=image, mask=(image[..., 0] > 100).astype(np.uint8))
        tensor = torch.from_numpy(found["image"].transpose(2, 0, 1).astype(np.float32))
        return tensor + 0.01 * torch.randn_like(tensor), torch.from_numpy(found["mask"]).long()
