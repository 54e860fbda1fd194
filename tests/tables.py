"""What tests of the tables share."""

from alexnet_jax.model.shapes import layer_infos

# The height and width of the images that each variant takes.
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
    'cifar10_13pct': 24,
    'cifar10_11pct': 24,
    'lenet5': 32,
    'digits': 28,
}


def count(layers, image_size: int) -> int:
    """The number of parameters of a table."""
    return sum(info.parameters for info in layer_infos(layers, image_size))
