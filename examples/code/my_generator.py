"""A generator over a file, as Keras' users have it. Nothing in it knows of feedline."""

import numpy as np


def load(file="series.npy", batch_size=16, steps=20):
    """Windows of a time series from anywhere in it, and the value that follows each."""
    series = np.load(file, mmap_mode="r")
    while True:
        starts = np.random.randint(0, len(series) - steps, batch_size)
        x = np.stack([series[start : start + steps] for start in starts])
        yield x[..., np.newaxis], series[starts + steps]
