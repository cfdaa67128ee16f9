"""A map-style dataset, as torch's users have it: `len(dataset)` and `dataset[i]`. Nothing in it knows of feedline."""

import random

import numpy as np


class Letters:
    """Pictures with a random shift, a dict of inputs, and a class."""

    def __init__(self, file="letters.npz", augment=True):
        stored = np.load(file)
        self.pictures, self.ages, self.labels = stored["pictures"], stored["ages"], stored["labels"]
        self.augment = augment

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        picture = self.pictures[index].astype(np.float32) / 255
        if self.augment:
            picture = np.roll(picture, random.randrange(-2, 3), axis=0)
            picture += np.random.normal(0, 0.01, picture.shape).astype(np.float32)
        return {"picture": picture, "age": float(self.ages[index])}, int(self.labels[index])


def plain():
    return Letters(augment=False)
