"""The input pipeline of flax's ImageNet example, for `benchmark data --baselines=flax`.

Written from its description: a crop of 8% to 100% of the image's area, 3/4 to 4/3 in aspect ratio,
decoded without the rest; resized to 224 x 224 (bicubic), mirrored half of the time, normalized to
float32; shuffled in a buffer; all maps in parallel. The same with the course's ops instead: resized
to a shorter side (bilinear), then cropped.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from alexnet_jax.benchmark.course_ops import DEVIATION, MEAN, CourseOps
from alexnet_jax.data.tensorflow import tf

IMAGE_SIZE = 224
CENTER_MARGIN = 32  # pixels around the center crop that is used if no random crop was found


def flax_batches(
    images: Sequence[bytes],
    labels: np.ndarray,
    batch_size: int,
    ops: CourseOps | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Return endless training batches from encoded JPEGs in memory.

    Args:
      images: The JPEGs.
      labels: Their labels, int [len(images)].
      batch_size: Images per batch.
      ops: The course's ops, if they are to be run instead of the example's own.

    Yields:
      image float32 [b, h, w, 3], label int [b].
    """
    options = tf.data.Options()
    options.threading.private_threadpool_size = 48
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = False
    examples: Any = {'image': images, 'label': labels}
    dataset: Any = (
        tf.data.Dataset.from_tensor_slices(examples)
        .with_options(options)
        .repeat()
        .shuffle(16 * batch_size, seed=0)
        .map(functools.partial(_augment, ops=ops), num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(10)
    )
    return dataset.as_numpy_iterator()


def _augment(example: dict[str, tf.Tensor], ops: CourseOps | None) -> dict[str, tf.Tensor]:
    encoded = example['image']
    crop = _resize_and_crop(encoded, ops) if ops else _random_crop(encoded)
    image = tf.image.random_flip_left_right(crop)
    mean, deviation = 255 * np.array([MEAN, DEVIATION], np.float32)
    return {'image': (image - mean) / deviation, 'label': example['label']}


def _random_crop(encoded: tf.Tensor) -> tf.Tensor:
    shape = tf.io.extract_jpeg_shape(encoded)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    not_found = tf.reduce_sum(tf.cast(size == shape, tf.int32)) >= 2
    window = tf.cond(
        not_found,
        lambda: _center(shape),
        lambda: tf.stack([begin[0], begin[1], size[0], size[1]]),
    )
    image = tf.io.decode_and_crop_jpeg(encoded, window, channels=3)
    image = tf.image.resize(image, [IMAGE_SIZE, IMAGE_SIZE], tf.image.ResizeMethod.BICUBIC)
    return tf.ensure_shape(image, [IMAGE_SIZE, IMAGE_SIZE, 3])


def _resize_and_crop(encoded: tf.Tensor, ops: CourseOps) -> tf.Tensor:
    image = tf.io.decode_jpeg(encoded, channels=3)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    target = tf.cast(tf.round(size * ops.resize / tf.reduce_min(size)), tf.int32)
    image = tf.image.resize(image, target)
    if ops.center:
        image = tf.image.resize_with_crop_or_pad(image, ops.center, ops.center)
    return tf.image.random_crop(image, [ops.crop, ops.crop, 3])


def _center(shape: tf.Tensor) -> tf.Tensor:
    """Top, left, height and width of the center crop that scoring uses."""
    short = tf.cast(tf.minimum(shape[0], shape[1]), tf.float32)
    side = tf.cast(short * IMAGE_SIZE / (IMAGE_SIZE + CENTER_MARGIN), tf.int32)
    return tf.stack([(shape[0] - side + 1) // 2, (shape[1] - side + 1) // 2, side, side])
