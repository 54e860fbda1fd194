"""The same training in PyTorch, from the same tables: what `benchmark --peer=torch` times.

`eager` is what a PyTorch user writes first. `tuned` is as fast as it could be made by hand: its own
response norm with a written gradient, a fused optimizer, and a process whose malloc keeps memory
(`ENVIRON`). On a GPU both run in channels_last and autocast to bfloat16 if the config says so, and
`compiled` puts torch.compile on top.
"""

import functools
import itertools
from collections.abc import Callable
from typing import assert_never

import torch
from torch import nn
from torch.nn import functional

from alexnet_jax.model.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    Normalize,
    ReLU,
    Sigmoid,
    Table,
    Tanh,
    WithinChannelLRN,
)
from alexnet_jax.model.shapes import LayerInfo, layer_infos

# glibc would return the activations to the system after every step, and fault them in again.
ENVIRON = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': str(2**40)}
Step = Callable[[], torch.Tensor]


def build(layers: Table, image_size: int, kind: str = 'eager') -> nn.Sequential:
    """A table as a PyTorch network on NCHW images that returns logits.

    Args:
      layers: the table.
      image_size: pixels a side.
      kind: 'eager' for PyTorch's own LRN, else the one by hand.

    Raises:
      ValueError: a layer that PyTorch does not have.
    """
    net = nn.Sequential()
    for row in layer_infos(layers, image_size):
        if isinstance(row.layer, Dense) and len(row.input) == 3:
            net.append(nn.Flatten())
        net.add_module(row.name, _module(row, kind))
    return net


def _module(row: LayerInfo, kind: str) -> nn.Module:
    match row.layer:
        case Conv(_, filters, window, stride, int(pad), groups):
            return nn.Conv2d(row.input[2], filters, window, stride, pad, groups=groups)
        case Dense(features=features, groups=1):
            return nn.Linear(row.kernel[0], features)
        case ReLU():
            return nn.ReLU(inplace=True)
        case Tanh():
            return nn.Tanh()
        case Sigmoid():
            return nn.Sigmoid()
        case MaxPool(window, stride, ceil_mode):
            return nn.MaxPool2d(window, stride, ceil_mode=ceil_mode)
        case AvgPool(window, stride, ceil_mode):
            return nn.AvgPool2d(window, stride, ceil_mode=ceil_mode)
        case Dropout(rate):  # the same work, however it is scaled
            return nn.Dropout(rate)
        case LRN():
            return _Norm(row.layer, kind)
        case BatchNorm(_, epsilon):
            return nn.BatchNorm2d(row.input[2], epsilon, affine=False)
        case Conv() | Dense() | Normalize() | WithinChannelLRN():
            raise ValueError(f'PyTorch has no layer for {row.layer}')
        case _:
            assert_never(row.layer)


class _Norm(nn.Module):
    """Response norm across channels; PyTorch divides alpha by n."""

    def __init__(self, layer: LRN, kind: str):
        super().__init__()
        self.groups = layer.groups
        if kind == 'eager':
            self.norm = nn.LocalResponseNorm(layer.n, layer.alpha * layer.n, layer.beta, layer.k)
        else:
            self.norm = lambda x: _HandNorm.apply(x, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.groups == 1:
            return self.norm(x)
        return torch.cat([self.norm(tower) for tower in x.chunk(self.groups, 1)], 1)


class _HandNorm(torch.autograd.Function):
    """As ops.py has it: sums of shifted slices, and a gradient that computes them again."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, layer: LRN) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.layer = layer
        return x * _power(layer.k + layer.alpha * _window_sum(x * x, layer.n), layer.beta)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (x,), layer = ctx.saved_tensors, ctx.layer
        denominator = layer.k + layer.alpha * _window_sum(x * x, layer.n)
        scaled = gradient * _power(denominator, layer.beta)
        shared = _window_sum(scaled * x / denominator, layer.n)
        return scaled - 2 * layer.alpha * layer.beta * x * shared, None


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
    layers: Table,
    image_size: int,
    batch_size: int,
    task: str,
    kind: str,
    bfloat16: bool,
    momentum: float,
    weight_decay: float,
) -> Step:
    """A function that trains a step, or scores a batch, on random images that are in place.

    Args:
      layers, image_size: the network.
      batch_size: images.
      task: 'train' or 'forward'.
      kind: 'eager', 'tuned' or 'compiled'.
      bfloat16: whether to autocast.
      momentum, weight_decay: of SGD.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    # oneDNN repacks either layout; on a CPU channels_last gained nothing.
    layout = torch.channels_last if device == 'cuda' else torch.contiguous_format
    net = build(layers, image_size, 'eager' if kind == 'eager' else 'tuned')
    net = net.to(device, memory_format=layout).train(task == 'train')
    classes = layers[-1].features
    shape = (batch_size, 3, image_size, image_size)
    images = torch.randn(shape, device=device).mul_(60).to(memory_format=layout)
    labels = torch.randint(classes, (batch_size,), device=device)
    parameters = list(net.parameters())
    forward = torch.compile(net) if kind == 'compiled' else net
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=bfloat16)

    @torch.no_grad()
    def score() -> torch.Tensor:
        with autocast():
            return forward(images).sum()

    if task == 'forward':
        return score
    optimizer = torch.optim.SGD(
        parameters, 1e-4, momentum, weight_decay=weight_decay, fused=kind != 'eager'
    )

    def train() -> torch.Tensor:
        optimizer.zero_grad()
        with autocast():
            logits = forward(images)
        loss = functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return train


def run(step: Step, count: int) -> None:
    """Run a step `count` times and wait for the last."""
    for result in itertools.islice(iter(step, None), count):
        last = result
    last.item()
