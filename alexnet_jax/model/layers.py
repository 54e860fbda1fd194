"""The layers that a table is made of, as data: `alexnet.py` defines what they compute.

Each layer knows the shape of its output and, unless a table names it, the prefix of its name.
Importing this module does not import JAX.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

Shape = tuple[int, ...]  # (height, width, channels) or (features,)


def output_width(width: int, window: int, stride: int, ceil_mode: bool = False) -> int:
    """Return (W - F)/S + 1, rounded down, or up where windows may hang over the far edge.

    Args:
      width: The width of the input, including its padding.
      window: The width of the window.
      stride: The distance between windows.
      ceil_mode: Whether the last window may hang over the edge.
    """
    span = width - window
    return (-(-span // stride) if ceil_mode else span // stride) + 1


class _SameShape:
    """A layer whose output has the shape of its input."""

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output for an input of this shape."""
        return shape


@dataclass(frozen=True)
class _Pool:
    """Square windows, which overlap where the stride is smaller than the window."""

    window: int
    stride: int
    ceil_mode: bool = False  # whether the last window may hang over the edge
    prefix: ClassVar[str] = 'pool'

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output for an input of this shape."""
        *sizes, channels = shape
        widths = (output_width(size, self.window, self.stride, self.ceil_mode) for size in sizes)
        return (*widths, channels)


@dataclass(frozen=True)
class Conv:
    """Convolution with square filters; weights start from N(0, std^2) and biases from `bias`."""

    name: str
    filters: int
    window: int
    stride: int = 1
    pad: int | tuple[int, int] = 0  # zeros on every side, or (left and top, right and bottom)
    groups: int = 1  # towers: a filter sees only its own tower's channels
    bias: float | Literal['torch'] = 0.0  # 'torch': U(+-1/sqrt(inputs)), PyTorch's default
    std: float | Literal['he', 'torch'] = 0.01  # 'he': sqrt(2 / inputs)

    @property
    def pads(self) -> tuple[int, int]:
        """Zeros (left and top, right and bottom)."""
        return self.pad if isinstance(self.pad, tuple) else (self.pad, self.pad)

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output for an input of this shape."""
        *sizes, _ = shape
        padded = (size + sum(self.pads) for size in sizes)
        return (*(output_width(size, self.window, self.stride) for size in padded), self.filters)

    def kernel_shape(self, shape: Shape) -> Shape:
        """Return (height, width, channels that a filter sees, filters)."""
        return (self.window, self.window, shape[-1] // self.groups, self.filters)


@dataclass(frozen=True)
class Local:
    """Locally connected layer: a convolution whose filters differ from one position to the next.

    There are `filters` of them at each position, each with its own bias; `bias` and `std` are as in
    `Conv`. cuda-convnet's layers of type `local`.
    """

    name: str
    filters: int
    window: int
    stride: int = 1
    pad: int = 0
    bias: float | Literal['torch'] = 0.0
    std: float | Literal['he', 'torch'] = 0.01

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output for an input of this shape."""
        *sizes, _ = shape
        padded = (size + 2 * self.pad for size in sizes)
        return (*(output_width(size, self.window, self.stride) for size in padded), self.filters)

    def kernel_shape(self, shape: Shape) -> Shape:
        """Return (rows and columns of positions, height, width, channels, filters)."""
        *positions, _ = self.output_shape(shape)
        return (*positions, self.window, self.window, shape[-1], self.filters)


@dataclass(frozen=True)
class Dense:
    """Fully connected layer on its flattened input; `bias` and `std` are as in `Conv`."""

    name: str
    features: int
    bias: float | Literal['torch'] = 0.0
    std: float | Literal['he', 'torch'] = 0.01
    groups: int = 1  # towers: a feature sees only its own tower's channels

    def output_shape(self, shape: Shape) -> Shape:
        """Return (features,), whatever the shape of the input."""
        return (self.features,)

    def kernel_shape(self, shape: Shape) -> Shape:
        """Return (inputs that a feature sees, features)."""
        return (math.prod(shape) // self.groups, self.features)


@dataclass(frozen=True)
class ReLU(_SameShape):
    """max(0, x), with derivative 0 at 0."""

    prefix: ClassVar[str] = 'relu'


@dataclass(frozen=True)
class Tanh(_SameShape):
    """The nonlinearity that the paper compares with ReLU (its figure 1)."""

    prefix: ClassVar[str] = 'tanh'


@dataclass(frozen=True)
class Sigmoid(_SameShape):
    """1 / (1 + exp(-x))."""

    prefix: ClassVar[str] = 'sigmoid'


@dataclass(frozen=True)
class LeakyReLU(_SameShape):
    """max(0, x) + slope min(0, x), with derivative `slope` at 0; 0.01 as in Maas et al. 2013."""

    slope: float = 0.01
    prefix: ClassVar[str] = 'leaky'


@dataclass(frozen=True)
class ELU(_SameShape):
    """x above 0, alpha (exp(x) - 1) below; alpha = 1 as in Clevert et al. (1511.07289)."""

    alpha: float = 1.0
    prefix: ClassVar[str] = 'elu'


@dataclass(frozen=True)
class LRN(_SameShape):
    """Local response normalization across channels: `ops.local_response_norm`."""

    k: float = 2.0
    n: int = 5
    alpha: float = 1e-4  # not divided by n
    beta: float = 0.75
    groups: int = 1
    prefix: ClassVar[str] = 'norm'


@dataclass(frozen=True)
class WithinChannelLRN(_SameShape):
    """Local response normalization within each channel: `ops.within_channel_lrn`."""

    k: float = 1.0
    n: int = 3
    alpha: float = 5e-5 / 9
    beta: float = 0.75
    prefix: ClassVar[str] = 'norm'


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Maximum over each window."""


@dataclass(frozen=True)
class AvgPool(_Pool):
    """Mean over each window; over the edge, of the pixels that exist or of the whole window."""

    # Whether pixels beyond the edge count, as zeros: cuda-convnet before July 2012.
    count_include_pad: bool = False


@dataclass(frozen=True)
class Dropout(_SameShape):
    """Random neurons switched off in training; all of them on at test time.

    Either way the next layer's sums keep their expected size: the remaining activations are divided
    by 1 - rate in training or, as in the paper (section 4.2), all are multiplied by it at test
    time.
    """

    rate: float = 0.5
    scale_at_test: bool = False
    prefix: ClassVar[str] = 'drop'


@dataclass(frozen=True)
class Normalize(_SameShape):
    """(x - mean) / std for each channel, in units of 0 .. 255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    prefix: ClassVar[str] = 'scale'


@dataclass(frozen=True)
class BatchNorm(_SameShape):
    """Batch normalization (Ioffe and Szegedy 2015) of each channel, without scale and bias.

    NVIDIA's AlexNet-BN has neither: the weights of the next layer do what a scale would.
    """

    name: str
    epsilon: float = 1e-4
    momentum: float = 0.9  # of the running averages, per step


Activation = ReLU | Tanh | Sigmoid | LeakyReLU | ELU
Weighted = Conv | Local | Dense  # with a kernel and a bias
Named = Weighted | BatchNorm  # named by the table; the others are numbered: prefix 'norm', norm1
Layer = Named | Activation | LRN | WithinChannelLRN | MaxPool | AvgPool | Dropout | Normalize
Table = tuple[Layer, ...]
