"""The CPU path of NVIDIA's DALI, for `benchmark data --baselines=dali`: the course's ops.

Written from its documentation. It decodes with libjpeg-turbo, in a thread per core. Unlike
this project's pipeline, it normalizes each image to float32 on the host.
"""

import itertools
import os
from collections.abc import Iterator, Sequence

import numpy as np

from alexnet_jax.benchmark.course_ops import DEVIATION, MEAN, CourseOps
from alexnet_jax.errors import BadInput


def dali_batches(
    images: Sequence[bytes], labels: np.ndarray, batch_size: int, ops: CourseOps
) -> Iterator[dict[str, np.ndarray]]:
    """Return endless training batches from encoded images in memory.

    Args:
      images: The encoded images.
      labels: Their labels, int [len(images)].
      batch_size: Images per batch.
      ops: What to do with them.

    Yields:
      image float32 [b, crop, crop, 3], label int64 [b].

    Raises:
      BadInput: DALI is missing.
    """
    try:
        from nvidia.dali import Pipeline, fn, types  # type: ignore[import-not-found]
    except ImportError as error:
        raise BadInput('--baselines=dali needs pip install nvidia-dali-cuda120') from error

    files = [np.frombuffer(image, np.uint8) for image in images]
    order = np.random.RandomState(0)

    def batches():
        for _ in itertools.count():
            chosen = order.randint(len(files), size=batch_size)
            yield [files[i] for i in chosen], labels[chosen].astype(np.int64)[:, None]

    pipeline = Pipeline(batch_size, os.cpu_count() or 1, None, seed=0, prefetch_queue_depth=2)
    with pipeline:
        encoded, label = fn.external_source(source=batches(), num_outputs=2)
        image = fn.decoders.image(encoded, device='cpu', output_type=types.RGB)
        image = fn.resize(
            image, resize_shorter=ops.resize, interp_type=types.INTERP_LINEAR, antialias=False
        )
        if ops.center:
            image = fn.crop(image, crop=(ops.center, ops.center))
        image = fn.crop_mirror_normalize(
            image,
            crop=(ops.crop, ops.crop),
            crop_pos_x=fn.random.uniform(range=(0, 1)),
            crop_pos_y=fn.random.uniform(range=(0, 1)),
            mirror=fn.random.coin_flip(),
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in DEVIATION],
            output_layout='HWC',
        )
        pipeline.set_outputs(image, label)
    pipeline.build()
    while True:
        image, label = pipeline.run()
        yield {'image': image.as_array(), 'label': label.as_array()[:, 0]}
