"""What is random in a transform: words and generators that belong to a sample, not to a process.

Everything drawn is a function of (seed, epoch, sample id, purpose) alone. So a sample is cropped the same by
every worker and replica, after every retry, and however the epoch is cut into batches.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.source import SampleRequest

VERSION = 1
"""Raised when anything drawn changes: see batches/fingerprint."""

_KEPT = 256
"""Pairs of key words that are kept: a few an epoch and transform."""

Words: TypeAlias = NDArray[np.uint64]

# splitmix64 (Steele, Lea and Flood 2014): its increment and the multipliers of its finaliser.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_SPREAD = np.uint64(0xBF58476D1CE4E5B9)
_SPREAD_AGAIN = np.uint64(0x94D049BB133111EB)


def words(request: SampleRequest, purpose: str, count: int) -> Words:
    """`count` random words for each sample, of shape (samples, count)."""
    keys = np.empty((len(request.ids), 2), np.uint64)
    for epoch in np.unique(request.epochs).tolist():
        keys[request.epochs == epoch] = _keys(purpose, request.seed, epoch)
    with np.errstate(over="ignore"):
        place = _mixed(request.ids.astype(np.uint64) * _STEP ^ keys[:, 0])
        if request.rows is not None:
            place = _mixed(request.rows.astype(np.uint64) * _STEP ^ place)
        steps = np.arange(1, count + 1, dtype=np.uint64) * _STEP
        return _mixed(_mixed(place[:, np.newaxis] + steps) ^ keys[:, 1:])


def below(drawn_words: Words, limits: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """A number of 0..limits-1 from each word, of one limit or of one each; the bias is less than limits / 2^32."""
    return ((drawn_words >> np.uint64(32)) * np.asarray(limits, np.uint64) >> np.uint64(32)).astype(np.int64)


def generator(key: Words) -> "np.random.Generator":  # a name: numpy loads its generators when they are named
    """The generator that two words stand for. Philox: two keys have nothing in common, however near."""
    return np.random.Generator(np.random.Philox(key=key, counter=0))


@lru_cache(_KEPT)
def _keys(purpose: str, seed: int, epoch: int) -> Words:
    name = f"feedline transform {VERSION}: {purpose} seed={seed:d} epoch={epoch:d}"
    keys = np.frombuffer(blake2b(name.encode(), digest_size=16).digest(), "<u8").astype(np.uint64)
    keys.flags.writeable = False  # it is kept, and what is kept must not change
    return keys


def _mixed(value: Words) -> Words:
    value = (value ^ value >> np.uint64(30)) * _SPREAD
    value = (value ^ value >> np.uint64(27)) * _SPREAD_AGAIN
    return value ^ value >> np.uint64(31)
