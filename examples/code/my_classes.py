"""The data generator of the well-known Keras tutorial, as its users have it. Nothing in it knows of feedline."""

import json
from pathlib import Path

import keras
import numpy as np


class DataGenerator(keras.utils.PyDataset):
    """Batches of volumes and one-hot labels."""

    def __init__(self, list_ids, labels, folder, batch_size=8, dim=(8, 8, 8), n_channels=1, n_classes=6, shuffle=True):
        super().__init__()
        self.list_ids = list_ids
        self.labels = labels
        self.folder = folder
        self.batch_size = batch_size
        self.dim = dim
        self.n_channels = n_channels
        self.n_classes = n_classes
        self.shuffle = shuffle
        self.on_epoch_end()

    def __len__(self):
        return int(np.floor(len(self.list_ids) / self.batch_size))

    def __getitem__(self, index):
        indexes = self.indexes[index * self.batch_size : (index + 1) * self.batch_size]
        return self.__data_generation([self.list_ids[k] for k in indexes])

    def on_epoch_end(self):
        self.indexes = np.arange(len(self.list_ids))
        if self.shuffle:
            np.random.shuffle(self.indexes)

    def __data_generation(self, chosen):
        x = np.empty((self.batch_size, *self.dim, self.n_channels))
        y = np.empty(self.batch_size, dtype=int)
        for i, name in enumerate(chosen):
            x[i] = np.load(Path(self.folder) / f"{name}.npy")
            y[i] = self.labels[name]
        return x, keras.utils.to_categorical(y, num_classes=self.n_classes)


def training_generator(folder="data"):
    partition, labels = _lists(folder)
    return DataGenerator(partition["train"], labels, folder)


def validation_generator(folder="data"):
    partition, labels = _lists(folder)
    return DataGenerator(partition["validation"], labels, folder, shuffle=False)


def _lists(folder):
    return (json.loads((Path(folder) / f"{name}.json").read_text()) for name in ("partition", "labels"))
