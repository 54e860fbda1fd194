"""The same training in PyTorch, from the same tables, for `benchmark step --baselines=torch`.

The eager version is what a PyTorch user would write first. The tuned one is as fast as it could be
made by hand: a custom response norm with a handwritten gradient, a fused optimizer, and a process
whose malloc keeps its memory. On a GPU both run in channels_last, and autocast to bfloat16 if the
config asks for it; the compiled version adds torch.compile on top.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import assert_never

import ml_collections
import torch
from torch import nn
from torch.nn import functional

from alexnet_jax.model import variants
from alexnet_jax.model.layers import (
    ELU,
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    LeakyReLU,
    Local,
    MaxPool,
    Normalize,
    ReLU,
    Sigmoid,
    Table,
    Tanh,
    WithinChannelLRN,
)
from alexnet_jax.model.shapes import LayerInfo, layer_infos

# Trains a step and returns the loss, or scores a batch and returns the sum of the logits.
Step = Callable[[], torch.Tensor]


def build(layers: Table, image_size: int, tuned: bool = False) -> nn.Sequential:
    """Return a table as a PyTorch network on NCHW images that returns logits.

    Args:
      layers: The table.
      image_size: The width and height of the images in pixels.
      tuned: Whether to use the handwritten response norm instead of PyTorch's own.

    Raises:
      ValueError: PyTorch lacks one of the layers.
    """
    net = nn.Sequential()
    for info in layer_infos(layers, image_size):
        if isinstance(info.layer, Dense) and len(info.input) == 3:
            net.append(nn.Flatten())
        net.add_module(info.name, _module(info, tuned))
    return net


def _module(info: LayerInfo, tuned: bool) -> nn.Module:
    match info.layer:
        case Conv(_, filters, window, stride, int(pad), groups):
            return nn.Conv2d(info.input[2], filters, window, stride, pad, groups=groups)
        case Dense(features=features, groups=1):
            return nn.Linear(math.prod(info.input), features)
        case ReLU():
            return nn.ReLU(inplace=True)
        case Tanh():
            return nn.Tanh()
        case Sigmoid():
            return nn.Sigmoid()
        case LeakyReLU(slope):
            return nn.LeakyReLU(slope, inplace=True)
        case ELU(alpha):
            return nn.ELU(alpha, inplace=True)
        case MaxPool(window, stride, ceil_mode):
            return nn.MaxPool2d(window, stride, ceil_mode=ceil_mode)
        case AvgPool(window, stride, ceil_mode, count_include_pad):
            divisor = window**2 if count_include_pad else None
            return nn.AvgPool2d(window, stride, ceil_mode=ceil_mode, divisor_override=divisor)
        case Dropout(rate):  # the same work, however it is scaled
            return nn.Dropout(rate)
        case LRN() as layer:
            return _LRN(layer, tuned)
        case WithinChannelLRN() as layer:
            return _WithinChannelLRN(layer, tuned)
        case BatchNorm(_, epsilon):
            return nn.BatchNorm2d(info.input[2], epsilon, affine=False)
        case Normalize(mean, std):
            return _Normalize(mean, std)
        case Conv() | Dense() | Local() as layer:
            raise ValueError(f'PyTorch has no layer for {layer}')
        case _:
            assert_never(info.layer)


class _Normalize(nn.Module):
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer('mean', torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer('std', torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


class _LRN(nn.Module):
    """Response norm across channels; each tower has its own."""

    def __init__(self, layer: LRN, tuned: bool):
        super().__init__()
        self.groups = layer.groups
        if tuned:
            self.norm = lambda x: _TunedLRN.apply(x, layer)
        else:  # PyTorch divides alpha by n
            self.norm = nn.LocalResponseNorm(layer.n, layer.alpha * layer.n, layer.beta, layer.k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.groups == 1:
            return self.norm(x)
        return torch.cat([self.norm(tower) for tower in x.chunk(self.groups, 1)], 1)


class _WithinChannelLRN(nn.Module):
    """Response norm over the pixels around each, which PyTorch lacks."""

    def __init__(self, layer: WithinChannelLRN, tuned: bool):
        super().__init__()
        self.layer = layer
        self.power = _power if tuned else lambda d, beta: d**-beta

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.layer.n
        total = functional.avg_pool2d(x * x, n, stride=1, padding=n // 2, divisor_override=1)
        return x * self.power(self.layer.k + self.layer.alpha * total, self.layer.beta)


class _TunedLRN(torch.autograd.Function):
    """As in `model.ops`: sums of shifted slices, and a gradient that computes them again."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, layer: LRN) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.layer = layer
        return x * _power(_denominator(x, layer), layer.beta)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (x,), layer = ctx.saved_tensors, ctx.layer
        denominator = _denominator(x, layer)
        scaled = gradient * _power(denominator, layer.beta)
        shared = _window_sum(scaled * x / denominator, layer.n)
        return scaled - 2 * layer.alpha * layer.beta * x * shared, None


def _denominator(x: torch.Tensor, layer: LRN) -> torch.Tensor:
    return layer.k + layer.alpha * _window_sum(x * x, layer.n)


def _power(d: torch.Tensor, beta: float) -> torch.Tensor:
    """d^-beta."""
    if beta != 0.75:
        return d**-beta
    root = d.rsqrt()
    return root * root.sqrt()


def _window_sum(x: torch.Tensor, n: int) -> torch.Tensor:
    total = x.clone()
    for shift in range(1, n // 2 + 1):
        total[:, shift:] += x[:, :-shift]
        total[:, :-shift] += x[:, shift:]
    return total


def make_step(
    config: ml_collections.ConfigDict,
    train: bool,
    tuned: bool = False,
    compiled: bool = False,
) -> Step:
    """Build a step on random images that are already on the device.

    Args:
      config: The run's config.
      train: Whether the step trains, or scores.
      tuned: Whether to use the handwritten response norm and fused SGD.
      compiled: Whether to use torch.compile.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    # oneDNN repacks either layout; on a CPU channels_last gained nothing.
    layout = torch.channels_last if device == 'cuda' else torch.contiguous_format
    if device == 'cuda' and config.precision == 'highest':
        torch.backends.cudnn.allow_tf32 = False  # by default, convolutions use it
    if tuned and device == 'cuda':
        torch.backends.cudnn.benchmark = True
        if config.precision != 'highest':  # TF32 in fully connected layers, as JAX does
            torch.set_float32_matmul_precision('high')
    layers = variants.build(config.variant, config.edits, config.num_classes)
    net = build(layers, config.image_size, tuned)
    net.to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]  not in its stubs
    net.train(train)
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    images = torch.randn(shape, device=device).mul_(60).to(memory_format=layout)
    labels = torch.randint(config.num_classes, (config.batch_size,), device=device)
    apply = torch.compile(net) if compiled else net
    autocast = functools.partial(
        torch.autocast, device, torch.bfloat16, enabled=config.dtype == 'bfloat16'
    )

    @torch.no_grad()
    def score() -> torch.Tensor:
        with autocast():
            return apply(images).sum()

    if not train:
        return score
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=1e-4,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        fused=tuned,
    )

    def update() -> torch.Tensor:
        optimizer.zero_grad()
        with autocast():
            logits = apply(images)
        loss = functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return update


def run(step: Step, count: int) -> None:
    """Run a step `count` times and wait for the last."""
    result = None
    for _ in range(count):
        result = step()
    if result is not None:
        result.item()
