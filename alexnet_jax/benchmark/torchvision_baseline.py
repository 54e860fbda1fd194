"""torchvision's input pipeline with Pillow, for `benchmark data --baselines=torchvision`.

As in torchvision's reference scripts: a `DataLoader` with a worker process per core, images decoded
and resized by Pillow, then cropped, mirrored, converted and normalized; here after the
course's ops. Unlike this project's pipeline, it resizes with antialiasing, as Pillow does, and
converts and normalizes each image to float32 on the host.
"""

import io
import os
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from alexnet_jax.benchmark.course_ops import DEVIATION, MEAN, CourseOps
from alexnet_jax.errors import BadInput

# Images are drawn with replacement in one endless epoch: a DataLoader does not prefetch past the
# end of an epoch, so its workers would otherwise go idle every thousand images.
EPOCH = 10**12  # images; more than any benchmark reads


class Images:
    """Encoded images in memory and what becomes of them: a `torch.utils.data.Dataset`."""

    def __init__(self, images: Sequence[bytes], labels: np.ndarray, ops: CourseOps):
        """Take encoded images, labels int [n], and the ops."""
        self._images = images
        self._labels = labels.tolist()
        self._ops = ops
        self._transform = None  # made by each worker, for which torch must be set up first

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int):
        from PIL import Image

        if self._transform is None:
            self._transform = _make_transform(self._ops)
        image = Image.open(io.BytesIO(self._images[index])).convert('RGB')
        return self._transform(image), self._labels[index]


def torchvision_batches(
    images: Sequence[bytes], labels: np.ndarray, batch_size: int, ops: CourseOps
) -> Iterator[dict[str, np.ndarray]]:
    """Return endless training batches from encoded images in memory.

    Args:
      images: The encoded images.
      labels: Their labels, int [len(images)].
      batch_size: Images per batch.
      ops: What to do with them.

    Yields:
      image float32 [b, 3, crop, crop], label int64 [b].

    Raises:
      BadInput: PyTorch or torchvision is missing.
    """
    try:
        import torch.utils.data

        _make_transform(ops)
    except ImportError as error:
        raise BadInput('--baselines=torchvision needs pip install torch torchvision') from error
    # A forked process would hang on the locks of TensorFlow's threads.
    dataset: Any = Images(images, labels, ops)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size,
        sampler=torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=EPOCH),
        num_workers=os.cpu_count() or 1,
        multiprocessing_context='spawn',
    )
    for batch in loader:
        yield {'image': batch[0].numpy(), 'label': batch[1].numpy()}


def _make_transform(ops: CourseOps):
    transforms = import_torchvision().transforms
    return transforms.Compose(
        [
            transforms.Resize(ops.resize),
            *([transforms.CenterCrop(ops.center)] if ops.center else []),
            transforms.RandomCrop(ops.crop),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, DEVIATION),
        ]
    )


_library = None  # torch forgets the ops of a library that is not referred to


def import_torchvision() -> ModuleType:
    """The package. Its wheel from PyPI does not import beside PyTorch for CPUs, which lacks two
    of its ops; they are declared here.
    """
    global _library
    import torch

    if _library is None and not hasattr(torch.ops.torchvision, 'nms'):
        _library = torch.library.Library('torchvision', 'DEF')
        for name in ('nms', 'qnms'):
            _library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    import torchvision

    return torchvision
