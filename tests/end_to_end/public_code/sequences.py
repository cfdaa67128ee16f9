"""Keras Sequences as the public has them, in our own words and with small data; each names where its pattern is from.

They stand on `object` instead of `keras.utils.Sequence`, which docs/python.md recommends on loaders without Keras.
"""

import math

import numpy as np

Sequence = object


class FileABatch(Sequence):
    """A batch is a file; an index is shuffled and never used. AbdElrahmanMSalim/Deep-Arabic-Poems-Generator."""

    def __init__(self):
        self.files = [f"batch-{number}.npy" for number in range(6)]
        self.on_epoch_end()

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        stored = np.load(self.files[index])
        return stored[:, :-1], stored[:, -1]

    def on_epoch_end(self):
        self.indexes = np.arange(len(self.files))
        np.random.shuffle(self.indexes)


class InMemory(Sequence):
    """The tutorial's class over two arrays, the last rows left out. hasibzunair/thyroid-nodule-sc."""

    def __init__(self):
        stored = np.load("arrays.npz")
        self.x, self.y, self.batch_size = stored["x"], stored["y"], 8
        self.on_epoch_end()

    def __len__(self):
        return int(np.floor(len(self.x) / self.batch_size))

    def __getitem__(self, index):
        return self.__rows(self.indexes[index * self.batch_size : (index + 1) * self.batch_size])

    def on_epoch_end(self):
        self.indexes = np.arange(len(self.x))
        np.random.shuffle(self.indexes)

    def __rows(self, indexes):
        return self.x[indexes], self.y[indexes]


class Counting(Sequence):
    """Shuffles by a seed of its own that it counts up, and augments with numpy. After a generator with imgaug and
    `seed=42, epoch_len=None`: rows are drawn for an epoch that is shorter than the data."""

    def __init__(self, seed=42):
        self.x = np.load("images.npy")
        self.random_state, self.epoch_len, self.batch_size = seed, 24, 8
        self.on_epoch_end()

    def __len__(self):
        return self.epoch_len // self.batch_size

    def __getitem__(self, index):
        rows = self.rows[index * self.batch_size : (index + 1) * self.batch_size]
        images = self.x[rows].astype(np.float32)
        for image in images:
            if np.random.random() < 0.5:
                image[:] = image[:, ::-1].copy()
        return images + np.random.normal(0, 0.1, images.shape).astype(np.float32), rows

    def on_epoch_end(self):
        self.rows = np.random.RandomState(self.random_state).permutation(len(self.x))[: self.epoch_len]
        self.random_state += 1


class OwnGenerator(Sequence):
    """Draws from a `default_rng(seed)` that it keeps, over memory-mapped files, with a short last batch. After a
    generator for genotypes that quotes the Stanford tutorial."""

    def __init__(self):
        self.x = np.load("images.npy", mmap_mode="r")
        self.indices = np.arange(len(self.x))
        self.rng = np.random.default_rng(0)
        self.on_epoch_end()

    def __len__(self):
        return math.ceil(len(self.indices) / 16)

    def __getitem__(self, index):
        low = index * 16
        rows = self.indices[low : low + 16]
        masked = self.x[rows] * (self.rng.random((len(rows), 1, 1)) > 0.1)
        return masked.astype(np.float32), rows

    def on_epoch_end(self):
        self.rng.shuffle(self.indices)


class Patches(Sequence):
    """Random patches of large images, out of an open HDF5 file that its `__del__` closes. After a segmentation
    generator with `n_patches` and `augment`."""

    def __init__(self):
        import h5py

        self.file = h5py.File("scans.h5", "r")
        self.scans, self.size = self.file["scans"], 6
        self.indices = list(range(len(self.scans)))
        self.on_epoch_end()

    def __del__(self):
        self.file.close()

    def __len__(self):
        return len(self.indices) // 2

    def __getitem__(self, index):
        x, y = [], []
        for scan in self.indices[2 * index : 2 * index + 2]:
            for _ in range(3):
                top, left = np.random.randint(0, self.scans.shape[1] - self.size, 2)
                patch = self.scans[scan, top : top + self.size, left : left + self.size]
                x.append(np.rot90(patch, np.random.randint(4)))
                y.append(scan)
        return np.stack(x), np.array(y)

    def on_epoch_end(self):
        np.random.shuffle(self.indices)
