"""A PyTorch training of real digits that is stopped in mid-epoch and continued by another feed, to the same weights."""

import tempfile
from pathlib import Path

import torch
from serving import digits, served

import feedline

EPOCHS, STOP_AT = 6, (3, 20)


def new() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    return model, torch.optim.Adam(model.parameters(), lr=3e-3)


def train(model, optimizer, batches, epochs, stop_at=None) -> bool:
    """Whether it came to the end."""
    for epoch in epochs:
        batches.set_epoch(epoch)
        for step, (x, y) in enumerate(batches):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x.float()), y.long()).backward()
            optimizer.step()
            if (epoch, step) == stop_at:
                return False
    return True


def accuracy(model, batches) -> float:
    with torch.no_grad():
        right = [(model(x.float()).argmax(1) == y).float() for x, y in batches]
    return float(torch.cat(right).mean())


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = Path(temporary) / "checkpoint.pt"
        with served(digits(Path(temporary) / "digits")) as address, feedline.connect(address) as loader:
            undisturbed = new()
            train(*undisturbed, loader.feed(batch_size=32, seed=7).torch(), range(EPOCHS))

            model, optimizer = new()
            batches = loader.feed(batch_size=32, seed=7).torch()
            train(model, optimizer, batches, range(EPOCHS), STOP_AT)
            torch.save([model.state_dict(), optimizer.state_dict(), batches.state_dict()], checkpoint)

            model, optimizer = new()  # as in a new process
            batches = loader.feed(batch_size=32).torch()
            for part, saved in zip((model, optimizer, batches), torch.load(checkpoint), strict=True):
                part.load_state_dict(saved)
            assert train(model, optimizer, batches, range(STOP_AT[0], EPOCHS))

            for one, other in zip(model.parameters(), undisturbed[0].parameters(), strict=True):
                assert torch.equal(one, other), "the weights are those of a training that was not stopped"
            found = accuracy(model, loader.feed("validation", batch_size=64, order="sequential").torch())
            assert found > 0.95
    print(f"{found:.1%} of the held-out digits after {EPOCHS} epochs, stopped in the fourth and continued")


if __name__ == "__main__":
    main()
