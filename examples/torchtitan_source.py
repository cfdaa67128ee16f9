"""A loader of the shape that torchtitan takes, built on Grain: `({"input": tokens}, labels)`, and a state per job."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from serving import served

import feedline
import feedline.grain

SEQUENCES, LENGTH, RANKS = 96, 16, 2


class TokenLoader:
    """Stateful, as torch.distributed.checkpoint saves it: every rank has the same state, so any number continues it."""

    def __init__(self, loader, rank, world, batch_size):
        feed = loader.feed(batch_size=batch_size, seed=3, rank=rank, world=world, remainder="drop")
        self.batches = feedline.grain.dataset(feed).map(self.with_labels)
        self.iteration = iter(self.batches)

    @staticmethod
    def with_labels(batch):
        tokens = torch.from_numpy(batch[0])
        return {"input": tokens[:, :-1]}, tokens[:, 1:]

    def __iter__(self):
        while True:  # torchtitan counts steps, not epochs
            for batch in self.iteration:  # noqa: UP028 - `yield from` would close it with this generator
                yield batch
            self.iteration = iter(self.batches)

    def state_dict(self):
        return self.iteration.get_state()

    def load_state_dict(self, state):
        self.iteration.set_state(state)


def read(loader, steps):
    """The first token of each sequence, which is its number."""
    return [int(row[0]) for _, (inputs, _) in zip(range(steps), loader, strict=False) for row in inputs["input"]]


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tokens"
        folder.mkdir()
        numbers = np.arange(SEQUENCES, dtype=np.int32)[:, None]
        np.save(folder / "tokens.npy", np.concatenate([numbers, numbers + np.arange(1, LENGTH + 1)], axis=1))
        with served(folder) as address, feedline.connect(address) as loader:
            ranks = [TokenLoader(loader, rank, RANKS, 8) for rank in range(RANKS)]
            before = [number for each in ranks for number in read(each, 2)]
            state = ranks[0].state_dict()
            assert state == ranks[1].state_dict()
            alone = TokenLoader(loader, 0, 1, 16)  # the job goes on with one rank
            alone.load_state_dict(state)
            after = read(alone, 4)
            assert sorted(before + after) == list(range(SEQUENCES)), "each sequence once, over the restart"
            assert sorted(read(alone, 6)) == list(range(SEQUENCES)), "and once in the next epoch"
    print(f"{len(before)} sequences by {RANKS} ranks, the other {len(after)} by one, each once")


if __name__ == "__main__":
    main()
