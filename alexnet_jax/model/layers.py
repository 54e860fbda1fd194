"""The layers that a table is made of, as data. `model.py` says what they compute."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Conv:
    """Convolution with square filters. `bias` and `std` are what its parameters start from."""

    name: str
    filters: int
    window: int
    stride: int = 1
    pad: int | tuple[int, int] = 0  # zeros on every side, or (left and above, right and below)
    groups: int = 1  # towers: a filter sees the channels of its own
    bias: float | Literal['torch'] = 0.0  # 'torch': U(+-1/sqrt(inputs)), PyTorch's default
    std: float | Literal['he', 'torch'] = 0.01  # of N(0, std^2); 'he': sqrt(2 / inputs)

    @property
    def pads(self) -> tuple[int, int]:
        """(left and above, right and below)."""
        return self.pad if isinstance(self.pad, tuple) else (self.pad, self.pad)


@dataclass(frozen=True)
class Dense:
    """Fully connected layer; flattens what it gets."""

    name: str
    features: int
    bias: float | Literal['torch'] = 0.0
    std: float | Literal['he', 'torch'] = 0.01
    groups: int = 1  # towers: a feature sees the channels of its own


@dataclass(frozen=True)
class ReLU:
    """max(0, x), with derivative 0 at 0."""


@dataclass(frozen=True)
class Tanh:
    """The nonlinearity that the paper compares with ReLU (its figure 1)."""


@dataclass(frozen=True)
class Sigmoid:
    """1 / (1 + exp(-x))."""


@dataclass(frozen=True)
class LRN:
    """Local response normalization across channels: `ops.local_response_norm`."""

    k: float = 2.0
    n: int = 5
    alpha: float = 1e-4  # not divided by n
    beta: float = 0.75
    groups: int = 1


@dataclass(frozen=True)
class WithinChannelLRN:
    """Response normalization within each map: `ops.within_channel_lrn`."""

    k: float = 1.0
    n: int = 3
    alpha: float = 5e-5 / 9
    beta: float = 0.75


@dataclass(frozen=True)
class MaxPool:
    """Maximum over square windows, which overlap where the stride is below the window."""

    window: int
    stride: int
    ceil_mode: bool = False  # the last window may hang over the edge


@dataclass(frozen=True)
class AvgPool:
    """Mean over square windows."""

    window: int
    stride: int
    ceil_mode: bool = False


@dataclass(frozen=True)
class Dropout:
    """Neurons off at random in training, all on at test time.

    The sums that the next layer gets keep their expected size either way: those left on are divided
    by 1 - rate in training; or, in the paper (section 4.2), all are multiplied by it at test time.
    """

    rate: float = 0.5
    scale_at_test: bool = False


@dataclass(frozen=True)
class Normalize:
    """(x - mean) / std, channel by channel, in units of 0 .. 255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalization (Ioffe and Szegedy 2015) of each channel, without scale and bias.

    That is how NVIDIA's AlexNet-BN has it; the weights of the next layer do what a scale would.
    """

    name: str
    epsilon: float = 1e-4
    momentum: float = 0.9  # of the running averages, per step


Activation = ReLU | Tanh | Sigmoid
Norm = LRN | WithinChannelLRN | BatchNorm | Normalize
Layer = Conv | Dense | Activation | Norm | MaxPool | AvgPool | Dropout
Table = tuple[Layer, ...]
