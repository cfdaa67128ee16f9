"""What frameworks really do with the three forms: every sample as often as promised, also over a restart."""

import importlib.util
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import pytest

pytestmark = pytest.mark.frameworks

Trainers = Callable[..., list[list[Any]]]

ONCE = list(range(100))


@pytest.fixture
def trainers(trainers: Trainers) -> Trainers:
    return partial(trainers, imports="torch, feedline.torch")


TWICE = sorted(ONCE + ONCE)


def test_a_loop_as_in_torchvisions_references_reads_each_sample_once_an_epoch(trainers: Trainers) -> None:
    """`set_epoch`, then `for`, with a place saved in the middle of epoch 1 and continued in another loop."""
    ((epochs, weights, undisturbed),) = trainers(
        """
        from torch import nn
        def train_one_epoch(model, optimizer, batches, read, stop_at=None):
            for step, ((x, y), ids) in enumerate(batches):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x), y[:, None].float()).backward()
                optimizer.step()
                read += ids.tolist()
                if step == stop_at:
                    return
        def trained(cut):
            torch.manual_seed(0)
            model = nn.Linear(3, 1)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
            batches = connection.feed(batch_size=8, seed=5).torch(with_ids=True)
            epochs = {}
            for epoch in range(3):
                batches.set_epoch(epoch)
                stop_at = cut if epoch == 1 else None
                train_one_epoch(model, optimizer, batches, epochs.setdefault(epoch, []), stop_at)
                if stop_at is not None:
                    saved = batches.state_dict()
                    batches = connection.feed(batch_size=8).torch(with_ids=True)
                    batches.load_state_dict(saved)
                    batches.set_epoch(1)
                    train_one_epoch(model, optimizer, batches, epochs[1])
            return [sorted(ids) for ids in epochs.values()], model.weight.tolist()
        epochs, weights = trained(cut=4)
        say([epochs, weights, trained(cut=None)[1]])
        """
    )[0]

    assert epochs == [ONCE] * 3
    assert weights == undisturbed


LIGHTNING = """
    import lightning, os
    class Model(lightning.LightningModule):
        def __init__(self, stop_at=None):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)
            self.stop_at = stop_at
            self.read = []
        def training_step(self, batch, index):
            (x, y), ids = batch
            self.read += ids.tolist()
            if self.stop_at == self.global_step + 1:
                self.trainer.should_stop = True
                self.trainer.limit_train_batches = 0
            return torch.nn.functional.mse_loss(self.layer(x), y[:, None].float())
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-5)
    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer, model, *arguments):
            if model.stop_at == trainer.global_step:
                trainer.save_checkpoint("middle.ckpt")
                raise SystemExit
    def fit(batches, model, **arguments):
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[Stop()],
        )
        try:
            trainer.fit(model, batches, **arguments)
        except SystemExit:
            pass
        return model
"""


def test_lightning_reads_each_sample_once_an_epoch_and_continues_in_mid_epoch(trainers: Trainers) -> None:
    ((first, rest, weights, whole, undisturbed),) = trainers(
        LIGHTNING
        + """
    batches = lambda: connection.feed(batch_size=8, seed=5).torch(with_ids=True)
    torch.manual_seed(0)
    whole = fit(batches(), Model())
    torch.manual_seed(0)
    stopped = fit(batches(), Model(stop_at=18))
    resumed = fit(batches(), Model(), ckpt_path="middle.ckpt")
    say([stopped.read, resumed.read, resumed.layer.weight.tolist(), whole.read, whole.layer.weight.tolist()])
    """
    )[0]

    assert sorted(whole) == TWICE
    assert first + rest == whole
    assert len(first) == 100 + 5 * 8
    assert weights == undisturbed


def test_accelerate_on_two_ranks_reads_each_sample_once_and_continues_with_the_very_next_batch(
    trainers: Trainers,
) -> None:
    """A bare iterable is returned as it is by `prepare`; the place is saved with `register_for_checkpointing`."""
    said = trainers(
        """
        from accelerate import Accelerator
        def start():
            torch.manual_seed(0)
            accelerator = Accelerator(cpu=True)
            model = torch.nn.Linear(3, 1)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
            batches = connection.feed(batch_size=8, seed=5, rank="auto").torch(with_ids=True)
            model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
            accelerator.register_for_checkpointing(batches)
            return accelerator, model, optimizer, batches
        def train(accelerator, model, optimizer, batches, steps):
            read = []
            for (x, y), ids in batches:
                accelerator.backward(torch.nn.functional.mse_loss(model(x), y[:, None].float()))
                optimizer.step()
                optimizer.zero_grad()
                read += ids.tolist()
                steps -= 1
                if not steps:
                    break
            return read
        parts = start()
        read = train(*parts, steps=3)
        parts[0].save_state("saved")
        parts = start()
        parts[0].load_state("saved")
        rest = [train(*parts, steps=100), train(*parts, steps=100)]
        undisturbed = start()
        train(*undisturbed, steps=100)
        train(*undisturbed, steps=100)
        weights = [[each.tolist() for each in model.parameters()] for model in (parts[1], undisturbed[1])]
        say([read, *rest, *weights])
        """,
        ranks=2,
    )

    (first, rest, second, *weights), (other_first, other_rest, other_second, *other) = (each[0] for each in said)
    assert len(first) == len(other_first) == 24
    assert sorted(first + rest + other_first + other_rest) == ONCE
    assert sorted(second + other_second) == ONCE
    assert weights[0] == weights[1] == other[0] == other[1]


def test_accelerate_is_refused_where_it_would_deal_out_the_batches_of_rank_0(trainers: Trainers) -> None:
    """It would read rank 0's part and never that of rank 1: half of the samples would never be trained on."""
    said = trainers(
        """
        from accelerate import Accelerator
        from torch.utils.data import DataLoader
        feed = connection.feed(batch_size=10, rank=int(__import__("os").environ["RANK"]), world=2)
        for dispatch in (None, False):
            accelerator = Accelerator(
                cpu=True, dataloader_config=__import__("accelerate").DataLoaderConfiguration(dispatch_batches=dispatch)
            )
            data = accelerator.prepare(DataLoader(feedline.torch.IterableBatches(feed), batch_size=None))
            try:
                say(len(list(data)))
            except feedline.InvalidRequest as error:
                say(str(error).split(";")[0])
        """,
        ranks=2,
    )

    told = "accelerate would read this dataset with rank 0 and deal its batches out to 2 ranks"
    assert said == [[told, told], [told, told]]


def test_accelerate_divides_the_batches_of_a_map_style_dataset_among_two_ranks(trainers: Trainers) -> None:
    said = trainers(
        """
        from accelerate import Accelerator
        from torch.utils.data import DataLoader
        batches = feedline.torch.MapBatches(connection.feed(batch_size=10, seed=5), with_ids=True)
        data = Accelerator(cpu=True).prepare(DataLoader(batches, batch_size=1, collate_fn=feedline.torch.first))
        say([[ids.tolist() for _, ids in data] for epoch in range(3)])
        """,
        ranks=2,
    )

    epochs = [list(zip(*ranks, strict=True)) for ranks in zip(*(each[0] for each in said), strict=True)]
    assert [sorted(chain(*chain(*epoch))) for epoch in epochs] == [ONCE] * 3
    assert epochs[0] != epochs[1]


def test_ddp_on_two_ranks_reads_each_sample_once_and_a_place_is_continued_by_one_rank(trainers: Trainers) -> None:
    """The checkpoint is one of torch.distributed.checkpoint, as torchtitan saves it."""
    said = trainers(
        """
        import torch.distributed as dist, torch.distributed.checkpoint as dcp
        from torch.nn.parallel import DistributedDataParallel
        dist.init_process_group("gloo")
        batches = connection.feed(batch_size=8, seed=5, rank="auto").torch(with_ids=True)
        model = DistributedDataParallel(torch.nn.Linear(3, 1))
        read = []
        for step, ((x, y), ids) in enumerate(batches):
            torch.nn.functional.mse_loss(model(x), y[:, None].float()).backward()
            read += ids.tolist()
            if step == 2:
                dcp.save({"batches": batches}, checkpoint_id="saved")
                break
        rest = []
        if dist.get_rank() == 0:
            alone = connection.feed(batch_size=12).torch(with_ids=True)
            dcp.load({"batches": alone}, checkpoint_id="saved", no_dist=True)
            rest = [number for _, ids in alone for number in ids.tolist()]
        read_by_two = [number for _, ids in batches for number in ids.tolist()]
        say([read, rest, read_by_two])
        dist.barrier()
        dist.destroy_process_group()
        """,
        ranks=2,
    )

    (read, rest, by_two), (other_read, _, other_by_two) = (each[0] for each in said)
    assert len(read) == len(other_read) == 24
    assert sorted(read + other_read + rest) == ONCE
    assert sorted(read + other_read + by_two + other_by_two) == ONCE


def test_a_job_of_several_that_has_no_ranks_yet_is_told_to_make_them(trainers: Trainers) -> None:
    ((told,),) = trainers(
        """
        import os
        os.environ["WORLD_SIZE"] = "2"
        try:
            connection.feed(rank="auto")
        except feedline.InvalidRequest as error:
            say(str(error))
        """
    )

    assert "call torch.distributed.init_process_group() before" in told


def test_the_trainer_of_hugging_face_reads_each_sample_once_an_epoch(trainers: Trainers) -> None:
    ((read, resumed, weights, undisturbed),) = trainers(
        """
        from transformers import Trainer, TrainingArguments
        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(3, 1)
                self.read = []
            def forward(self, batch, ids):
                x, y = batch
                self.read += ids.tolist()
                return {"loss": torch.nn.functional.mse_loss(self.layer(x), y[:, None].float())}
        def collate(items):
            batch, ids = feedline.torch.first(items)
            return {"batch": batch, "ids": ids}
        def train(steps=-1, **arguments):
            torch.manual_seed(0)
            model = Model()
            trainer = Trainer(
                model=model,
                args=TrainingArguments(
                    output_dir="out", num_train_epochs=2, max_steps=steps, per_device_train_batch_size=1,
                    report_to="none", use_cpu=True, remove_unused_columns=False, save_steps=8, disable_tqdm=True,
                ),
                train_dataset=feedline.torch.MapBatches(connection.feed(batch_size=10, seed=5), with_ids=True),
                data_collator=collate,
            )
            trainer.train(**arguments)
            return model.read, model.layer.weight.tolist()
        whole, undisturbed = train()
        resumed, weights = train(resume_from_checkpoint="out/checkpoint-8")
        say([whole, resumed, weights, undisturbed])
        """
    )[0]

    assert sorted(read[:100]) == sorted(read[100:]) == ONCE
    assert resumed == read[80:]
    assert weights == undisturbed


def test_the_trainer_of_hugging_face_on_two_ranks_reads_each_sample_once_an_epoch(trainers: Trainers) -> None:
    """There accelerate tells its own sampler the epoch and not the dataset: a callback does."""
    said = trainers(
        """
        from transformers import Trainer, TrainerCallback, TrainingArguments
        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(3, 1)
                self.read = []
            def forward(self, batch, ids):
                x, y = batch
                self.read.append(ids.tolist())
                return {"loss": torch.nn.functional.mse_loss(self.layer(x), y[:, None].float())}
        def collate(items):
            batch, ids = feedline.torch.first(items)
            return {"batch": batch, "ids": ids}
        batches = feedline.torch.MapBatches(connection.feed(batch_size=10, seed=5), with_ids=True)
        class NamesEpochs(TrainerCallback):
            def on_epoch_begin(self, args, state, control, **kwargs):
                batches.set_epoch(int(state.epoch))
        model = Model()
        arguments = TrainingArguments(
            output_dir="out", num_train_epochs=2, per_device_train_batch_size=1, report_to="none", use_cpu=True,
            remove_unused_columns=False, save_strategy="no", disable_tqdm=True, ddp_backend="gloo",
        )
        Trainer(
            model=model, args=arguments, train_dataset=batches, data_collator=collate, callbacks=[NamesEpochs()]
        ).train()
        say(model.read)
        """,
        ranks=2,
    )

    first, second = said[0][0], said[1][0]
    assert len(first) == len(second) == 10
    epochs = [sorted(chain(*first[half], *second[half])) for half in (slice(0, 5), slice(5, 10))]
    assert epochs == [ONCE, ONCE]
    assert {tuple(ids) for ids in first[:5] + second[:5]}.isdisjoint(tuple(ids) for ids in first[5:] + second[5:])


@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_keras_trains_on_each_sample_once_although_it_begins_a_dataloader_and_begins_it_again(
    trainers: Trainers, backend: str
) -> None:
    """On torch it builds the model with the first pass, on TensorFlow it takes shapes from two batches of it."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")

    ((first, then, over_a_break, rest, own_loop),) = trainers(
        f"""
        os.environ["KERAS_BACKEND"] = {backend!r}
        import keras
        from torch.utils.data import DataLoader
        class Count(keras.layers.Layer):
            def build(self, shape):
                self.seen = self.add_weight(shape=(100,), initializer="zeros", trainable=False)
            def call(self, x):
                ids = keras.ops.cast(x[:, 0], "int32")
                self.seen.assign(self.seen.value + keras.ops.sum(keras.ops.one_hot(ids, 100), axis=0))
                return x
        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 3:
                    raise RuntimeError("stopped")
        count = Count()
        model = keras.Sequential([keras.Input((3,)), count, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1e-6), "mse")
        def trained(data, **arguments):
            before = keras.ops.convert_to_numpy(count.seen.value).copy()
            model.fit(data, verbose=0, **arguments)
            return (keras.ops.convert_to_numpy(count.seen.value) - before).astype(int).tolist()
        def saw(batches):
            return sorted(int(each) for x, y in batches for each in y)
        batches = feedline.torch.IterableBatches(connection.feed(batch_size=8, seed=5))
        data = DataLoader(batches, batch_size=None)
        first = trained(data)
        then = trained(data, epochs=2)
        try:
            model.fit(data, verbose=0, callbacks=[Stop()])
        except RuntimeError:
            pass
        over_a_break = trained(data)
        feed = connection.feed(batch_size=8, seed=5)
        middle = [next(iter(feed)) for _ in range(4)]
        batches.load_state_dict(feed.state_dict())
        model.compile(keras.optimizers.SGD(1e-6), "mse")
        rest = [id for id, times in enumerate(trained(data)) if times] + [int(id) for each in middle for id in each.ids]
        for x, y in data:
            break
        own_loop = saw([(x, y)]) + saw(data)
        say([first, then, over_a_break, sorted(rest), sorted(own_loop)])
        """
    )[0]

    assert first == over_a_break == [1] * 100
    assert then == [2] * 100
    assert rest == own_loop == ONCE
