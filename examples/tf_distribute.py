"""`distribute_datasets_from_function` on two devices: real digits, each trained on once an epoch."""

import os
import tempfile
from pathlib import Path

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}

import tensorflow as tf
from serving import digits, served

import feedline

EPOCHS, BATCH = 8, 16


def logits(x, weights):
    return tf.reshape(tf.cast(x, tf.float32), (-1, 64)) @ weights


def main() -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with (
        tempfile.TemporaryDirectory() as temporary,
        served(digits(Path(temporary) / "digits")) as address,
        feedline.connect(address) as loader,
        strategy.scope(),
    ):
        weights = tf.Variable(tf.zeros((64, 10)))

        def pipeline(context):
            rank, world = context.input_pipeline_id, context.num_input_pipelines
            return loader.feed(batch_size=BATCH, remainder="drop", rank=rank, world=world).tf_dataset(with_ids=True)

        def step(batch, ids):
            x, y = batch
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits(x, weights))
                loss = tf.reduce_mean(losses)
            gradient = tape.gradient(loss, weights)
            mean = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, gradient)
            weights.assign_sub(0.3 * mean)
            return ids

        run = tf.function(lambda batch, ids: strategy.run(step, args=(batch, ids)))
        batches = strategy.distribute_datasets_from_function(pipeline)
        for _ in range(EPOCHS):
            seen = [int(number) for element in batches for ids in run(*element).values for number in ids.numpy()]
            assert len(seen) == len(set(seen)), "no digit twice"
        held_out = loader.feed("validation", batch_size=64, order="sequential").tf()
        right = [tf.argmax(logits(x, weights), 1) == tf.cast(y, tf.int64) for x, y in held_out]
        found = float(tf.reduce_mean(tf.cast(tf.concat(right, 0), tf.float32)))
        assert found > 0.85
    print(f"{found:.1%} of the held-out digits after {EPOCHS} epochs of {len(seen)} on two devices")


if __name__ == "__main__":
    main()
