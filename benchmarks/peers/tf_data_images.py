"""tf.data in the trainer's own process: photographs decoded and resized, or cropped at random and then decoded.

The second is `decode_and_crop_jpeg`, which computes the pixels of the drawn region alone; its regions are those of
`sample_distorted_bounding_box`, as TensorFlow's models for ImageNet draw them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.content import Array

if TYPE_CHECKING:
    import tensorflow as tf


def batches(options: Mapping[str, Any]) -> Iterator[tuple[Array, Array | None]]:
    import tensorflow as tf

    width, height = options["size"]
    paths = sorted(map(str, (Path(options["folder"]) / "images").glob("*.jpg")))
    decoded = _cropped if options["pipeline"] == "random crop" else _whole

    def sample(path: "tf.Tensor", number: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        image = tf.image.resize(decoded(tf.io.read_file(path)), (height, width))
        return tf.cast(tf.round(image), tf.uint8), number

    data = tf.data.Dataset.from_tensor_slices((paths, range(len(paths)))).shuffle(len(paths)).repeat()
    data = data.map(sample, num_parallel_calls=options["workers"], deterministic=False)
    threads = tf.data.Options()
    threads.threading.private_threadpool_size = options["workers"]
    data = data.batch(options["batch"], drop_remainder=True).prefetch(tf.data.AUTOTUNE).with_options(threads)
    yield from data.as_numpy_iterator()


def _whole(data: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    return tf.io.decode_jpeg(data, channels=3)


def _cropped(data: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(data),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.io.decode_and_crop_jpeg(data, tf.concat([begin[:2], size[:2]], axis=0), channels=3)
