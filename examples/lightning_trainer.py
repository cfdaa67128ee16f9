"""Lightning on real digits: `Trainer.fit(model, feed.torch())`, stopped in mid-epoch, continued from a checkpoint."""

import contextlib
import logging
import tempfile
import warnings
from pathlib import Path

import lightning
import torch
from serving import digits, served

import feedline

STEPS_BEFORE_STOP = 70


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU())
        self.head = torch.nn.Linear(64, 10)
        self.steps = 0

    def training_step(self, batch, index):
        x, y = batch
        self.steps += 1
        return torch.nn.functional.cross_entropy(self.head(self.model(x.float())), y.long())

    def validation_step(self, batch, index):
        x, y = batch
        self.log("accuracy", (self.head(self.model(x.float())).argmax(1) == y).float().mean(), batch_size=len(y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class KilledAfter(lightning.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, *arguments):
        if trainer.global_step == STEPS_BEFORE_STOP:
            trainer.save_checkpoint(self.folder / "middle.ckpt")
            raise KeyboardInterrupt


def trainer(folder: Path, *callbacks: lightning.Callback) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), default_root_dir=folder,
    )  # fmt: skip


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # that there are no workers: the loader has them
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with served(digits(folder / "digits")) as address, feedline.connect(address) as loader:
            validation = loader.feed("validation", batch_size=64, order="sequential").torch()
            train = loader.feed(batch_size=32, seed=7).torch()
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                trainer(folder, KilledAfter(folder)).fit(Digits(), train, validation)
            model, train = Digits(), loader.feed(batch_size=32, seed=7).torch()  # as in a new process
            last = trainer(folder)
            last.fit(model, train, validation, ckpt_path=folder / "middle.ckpt")
            assert model.steps == 4 * len(train) - STEPS_BEFORE_STOP, "nothing is trained on twice"
            accuracy = float(last.callback_metrics["accuracy"])
    print(f"{accuracy:.1%} of the held-out digits; {model.steps} of {4 * len(train)} steps after the restart")


if __name__ == "__main__":
    main()
