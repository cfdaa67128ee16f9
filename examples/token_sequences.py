"""Sentences: words become vectors on the loader, padded to one length, or in buckets of about equally long ones."""

import tempfile
from pathlib import Path

import numpy as np
from serving import served

import feedline

SENTENCES = 2000
WORDS = 500
CLASSES = 5
LONGEST = 40

CONFIG = """
[datasets.padded]
kind = "sequences"
path = "sentences"           # words.npy and tags.npy, all sentences end to end, and lengths.npy
inputs = "words"
targets = "tags"
views = {train = ":-200", validation = "-200:"}
transforms = [
  {name = "truncate", columns = ["words", "tags"], length = 40},
  {name = "embed", column = "words", table = "tables/vectors.npy"},
  {name = "one_hot", column = "tags", classes = 5},
  {name = "pad", columns = ["words", "tags"], length = 40},
]

[datasets.buckets]           # padded to the longest of each batch
kind = "sequences"
path = "sentences"
inputs = "words"
targets = "tags"
transforms = [{name = "one_hot", column = "tags", classes = 5}]
"""


def make(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Sentences as a tokenizer leaves them, a tag for each word, and a table of word vectors."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(3, 0.5, SENTENCES).astype(np.int64).clip(1)
    words = [rng.integers(1, WORDS, length, np.int32) for length in lengths]
    tags = [sentence.astype(np.int64) % CLASSES for sentence in words]
    vectors = rng.random((WORDS, 8), np.float32)
    data = folder / "sentences"
    (data / "tables").mkdir(parents=True)
    np.save(data / "words.npy", np.concatenate(words))
    np.save(data / "tags.npy", np.concatenate(tags))
    np.save(data / "lengths.npy", lengths)
    np.save(data / "tables" / "vectors.npy", vectors)
    (folder / "loader.toml").write_text(CONFIG)
    return words, tags, vectors


def one_hot(tags: np.ndarray) -> np.ndarray:
    return np.eye(CLASSES, dtype=np.float32)[tags]


def padded(steps: np.ndarray, length: int) -> np.ndarray:
    whole = np.zeros((length, *steps.shape[1:]), steps.dtype)
    whole[: len(steps)] = steps[:length]
    return whole


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        words, tags, vectors = make(Path(temporary))
        with served(Path(temporary) / "loader.toml") as address, feedline.connect(address) as loader:
            seen = []
            for view in ("train", "validation"):
                for batch in loader.epoch(dataset="padded", view=view, batch_size=32):
                    x, y = batch
                    for row, sample in enumerate(batch.ids):
                        np.testing.assert_array_equal(x[row], padded(vectors[words[sample]], LONGEST))
                        np.testing.assert_array_equal(y[row], padded(one_hot(tags[sample]), LONGEST))
                    seen += batch.ids.tolist()
            assert sorted(seen) == list(range(SENTENCES))

            sent = {}
            for order in ("shuffle", "buckets"):
                seen, sent[order] = [], 0
                for batch in loader.epoch(dataset="buckets", order=order, batch_size=32):
                    x, y = batch
                    assert x.shape[1] == max(len(words[sample]) for sample in batch.ids)
                    for row, sample in enumerate(batch.ids):
                        np.testing.assert_array_equal(x[row], padded(words[sample], x.shape[1]))
                        np.testing.assert_array_equal(y[row], padded(one_hot(tags[sample]), y.shape[1]))
                    seen += batch.ids.tolist()
                    sent[order] += x.size
                assert sorted(seen) == list(range(SENTENCES))
    real = sum(map(len, words))
    shares = ", ".join(f"{1 - real / steps:.0%} with order {order}" for order, steps in sent.items())
    print(f"{SENTENCES} sentences, every one once; of what was sent was padding: {shares}")


if __name__ == "__main__":
    main()
