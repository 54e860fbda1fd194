"""What tests of the tables share."""

import math

from alexnet_jax.model.shapes import layer_infos

# Pixels a side of the images that each variant takes.
IMAGE_SIZES = {
    'course': 227,
    'paper': 227,
    'source_2012': 224,
    'bvlc': 227,
    'caffenet': 227,
    'torchvision': 224,
    'alexnet_bn': 227,
    'cifar10_18pct': 32,
    'cifar10_80sec': 32,
    'digits': 28,
}


def count(layers, image_size: int) -> int:
    """Parameters: a kernel's, and a bias for each of its filters or features."""
    kernels = [row.kernel for row in layer_infos(layers, image_size) if row.kernel]
    return sum(math.prod(kernel) + kernel[-1] for kernel in kernels)
