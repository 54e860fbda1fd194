"""Each layer of a table in context: its name, shapes, parameters and multiply-adds."""

import bisect
import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from alexnet_jax.errors import BadInput
from alexnet_jax.model.layers import (
    Activation,
    Conv,
    Dense,
    Dropout,
    Layer,
    Local,
    Named,
    Shape,
    Table,
    Weighted,
)


class LayerInfo(NamedTuple):
    """A layer in context: its name, and the shapes of its input and output."""

    name: str  # 'conv1', 'norm1', 'pool1', 'drop1', ...: the course notes' names
    layer: Layer
    input: Shape
    output: Shape

    @property
    def kernel(self) -> Shape | None:
        """Shape of the kernel; None if the layer has no weights."""
        return self.layer.kernel_shape(self.input) if isinstance(self.layer, Weighted) else None

    @property
    def biases(self) -> Shape:
        """Shape of the biases: (filters,), (features,) or, for `Local`, that of the output."""
        return self.output if isinstance(self.layer, Local) else self.output[-1:]

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return math.prod(self.kernel) + math.prod(self.biases) if self.kernel else 0

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds per image of the products with the weights; norms and pools do not count.

        A multiply-add is one multiplication and one addition: two floating-point operations. A
        kernel of `Conv` is applied at every position; every other weight is used once.
        """
        positions = math.prod(self.output[:-1]) if isinstance(self.layer, Conv) else 1
        return math.prod(self.kernel) * positions if self.kernel else 0


def layer_names(layers: Table) -> list[str]:
    """Return 'conv1', 'relu1', 'norm1', ...: each layer's own name, or its prefix and a number."""
    seen = Counter()
    names = []
    for layer in layers:
        if isinstance(layer, Named):
            names.append(layer.name)
        else:
            seen[layer.prefix] += 1
            names.append(f'{layer.prefix}{seen[layer.prefix]}')
    return names


def towers_of(layers: Table) -> int:
    """Return the number of towers into which some layers are split; 1 for one network."""
    return math.lcm(*(getattr(layer, 'groups', 1) for layer in layers))


def layer_infos(layers: Table, image_size: int) -> Iterator[LayerInfo]:
    """Follow a color image through a table.

    An output with an extent below 1 means that the image is too small for the layer.

    Args:
      layers: The table.
      image_size: The height and width of the image, in pixels.

    Yields:
      The LayerInfo of each layer, in order.
    """
    shape: Shape = (image_size, image_size, 3)
    for name, layer in zip(layer_names(layers), layers, strict=True):
        info = LayerInfo(name, layer, shape, layer.output_shape(shape))
        yield info
        shape = info.output


def check_shapes(layers: Table, image_size: int) -> None:
    """Check that every layer can take the image.

    Raises:
      BadInput: Names the first layer that would have no filters, whose output would be empty, or
        whose towers would not be of one width.
    """
    for info in layer_infos(layers, image_size):
        if info.output[-1] < 1:
            what = 'features' if isinstance(info.layer, Dense) else 'filters'
            raise BadInput(f'{info.name} would have no {what} left; leave out one of the edits')
        towers, widths = getattr(info.layer, 'groups', 1), (info.input[-1], info.output[-1])
        if any(width % towers for width in widths):
            raise BadInput(
                f'{info.name}: its {widths[0]} input and {widths[1]} output channels cannot be '
                f'split evenly between {towers} towers; leave out one of the edits'
            )
        if min(info.output) < 1:
            raise BadInput(
                f'image_size={image_size}: the input of {info.name} is {info.input[0]}x'
                f'{info.input[1]}, so its output would be empty; use larger images'
            )


def check_slices(layers: Table, image_size: int, devices: int) -> None:
    """Check that the rows of every fully connected layer's kernel divide over the devices.

    Raises:
      BadInput: Names a layer, and the nearest numbers of devices that would work.
    """
    rows = {
        info.name: info.layer.kernel_shape(info.input)[0]
        for info in layer_infos(layers, image_size)
        if isinstance(info.layer, Dense)
    }
    common = math.gcd(*rows.values())
    if common % devices:
        name = next(name for name, count in rows.items() if count % devices)
        allowed = [n for n in range(1, common + 1) if common % n == 0]
        place = bisect.bisect(allowed, devices)
        nearest = ' or '.join(str(n) for n in allowed[place - 1 : place + 1])
        raise BadInput(
            f"parallelism='hybrid': the {rows[name]} inputs of {name} do not divide evenly over "
            f'{devices} devices; use {nearest}, or --config.parallelism=data'
        )


def parameter_names(layers: Table) -> list[str]:
    """Return ['conv1/kernel', 'conv1/bias', ...] in the order of the table."""
    names = [layer.name for layer in layers if isinstance(layer, Weighted)]
    return [f'{name}/{kind}' for name in names for kind in ('kernel', 'bias')]


def product_flops(layers: Table, image_size: int, train: bool) -> dict[tuple[str, bool], int]:
    """Return the floating-point operations that an image takes in products with weights.

    In training, each product is computed three times, once forward and for two gradients, except in
    the first layer, whose input needs no gradient.

    Args:
      layers, image_size: As for `layer_infos`.
      train: Whether the network is trained on the image, or scores it.

    Returns:
      Operations by the layer's name and by whether they are for its gradients.
    """
    weighted = [info for info in layer_infos(layers, image_size) if info.kernel]
    flops = {(info.name, False): 2 * info.multiply_adds for info in weighted}
    if train:
        flops |= {(info.name, True): 4 * info.multiply_adds for info in weighted}
        flops[weighted[0].name, True] //= 2
    return flops


def layers_up_to(table: Table, name: str, image_size: int) -> Table:
    """Return the first layers of a table, up to the named one.

    For a convolution or fully connected layer, the nonlinearity and dropout that directly follow it
    are included.

    Args:
      table: The table.
      name: A name as in `LayerInfo`.
      image_size: The height and width of the input.

    Raises:
      BadInput: There is no layer of that name.
    """
    names = [info.name for info in layer_infos(table, image_size)]
    if name not in names:
        raise BadInput(f'unknown layer {name!r}; allowed: {", ".join(names)}')
    end = names.index(name) + 1
    if isinstance(table[end - 1], Weighted):
        while end < len(table) and isinstance(table[end], Activation | Dropout):
            end += 1
    return table[:end]
