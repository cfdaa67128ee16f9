"""Generators as the public has them, in our own words and with small data; each names where its pattern is from."""

import csv
import random

import numpy as np


def lines():
    with open("log.csv") as file:
        return [(int(row["frame"]), float(row["angle"])) for row in csv.DictReader(file)]


def flipped():
    """A frame and its mirror image, shuffled anew for each run. tkxiong/CarND-Behavioral-Cloning-P3."""
    frames, samples = np.load("images.npy"), lines()
    while 1:
        samples = [samples[at] for at in np.random.permutation(len(samples))]
        for offset in range(0, len(samples), 8):
            images, angles = [], []
            for frame, angle in samples[offset : offset + 8]:
                images += [frames[frame], np.fliplr(frames[frame])]
                angles += [angle, -angle]
            at = np.random.permutation(len(images))
            yield np.array(images)[at], np.array(angles)[at]


def in_order(batch_size=8):
    """Never shuffled between batches, only within. satoshikumano/CarND-Behavioral-Cloning-Submission."""
    frames, samples = np.load("images.npy"), lines()
    while 1:
        for offset in range(0, len(samples), batch_size):
            batch = samples[offset : offset + batch_size]
            at = np.random.permutation(len(batch))
            yield np.array([frames[frame] for frame, _ in batch])[at], np.array([angle for _, angle in batch])[at]


def reseeding():
    """Seeds `random` by its run through the list: every worker would have the same order. After a behavioural cloning
    project with a `sampleGenerator`."""
    frames, samples, iteration = np.load("images.npy"), lines(), 0
    while 1:
        iteration += 1
        random.seed(iteration)
        random.shuffle(samples)
        for offset in range(0, len(samples), 8):
            batch = samples[offset : offset + 8]
            yield np.array([frames[frame] for frame, _ in batch]), np.array([angle for _, angle in batch])


def split_by_hash(validation=False):
    """A split by the hash of a name, and a seed of its own at the beginning. After a `get_data_gen` with `margin` and
    `flip_prob`."""
    frames, samples = np.load("images.npy"), lines()
    np.random.seed(42)
    while True:
        np.random.shuffle(samples)
        kept = [sample for sample in samples if (hash(f"frame-{sample[0]}") % 4 == 0) == validation]
        yield np.array([frames[frame] for frame, _ in kept]), np.array([angle for _, angle in kept])


def windows(worker, workers):
    """Windows of a series, divided among workers as torch's documentation of IterableDataset divides a range."""
    series = np.load("images.npy", mmap_mode="r").reshape(-1, 12 * 12)
    while True:
        for start in range(worker * 4, len(series) - 4, workers * 4):
            yield series[start : start + 4], np.arange(start, start + 4)
