"""The network again, in NumPy and float64, layer by layer and by the formulas of the notes."""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from alexnet_jax.model.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Local,
    MaxPool,
    Normalize,
    ReLU,
    Table,
    WithinChannelLRN,
)


def outputs(table: Table, variables: dict[str, Any], x: np.ndarray) -> list[np.ndarray]:
    """Return what each layer makes of one image, [h, w, c], at test time."""
    found = []
    for layer in table:
        x = output(layer, variables, np.asarray(x, np.float64))
        found.append(x)
    return found


def output(layer: Any, variables: dict[str, Any], x: np.ndarray) -> np.ndarray:
    match layer:
        case Conv():
            return conv(layer, variables['params'][layer.name], x)
        case Local():
            return local(layer, variables['params'][layer.name], x)
        case Dense():
            params = variables['params'][layer.name]
            parts = [part.ravel() for part in np.split(x, layer.groups, axis=-1)]
            kernels = np.split(params['kernel'].astype(np.float64), layer.groups, axis=-1)
            sums = [part @ kernel for part, kernel in zip(parts, kernels, strict=True)]
            return np.concatenate(sums) + params['bias']
        case ReLU():
            return np.maximum(0, x)
        case Dropout():
            return x * (1 - layer.rate) if layer.scale_at_test else x
        case LRN():
            return np.concatenate([lrn(layer, a) for a in np.split(x, layer.groups, axis=-1)], -1)
        case WithinChannelLRN():
            reach = layer.n // 2
            padded = np.pad(x**2, ((reach, reach), (reach, reach), (0, 0)))
            sums = sliding_window_view(padded, (layer.n, layer.n), (0, 1)).sum((-1, -2))
            return x / (layer.k + layer.alpha * sums) ** layer.beta
        case MaxPool() | AvgPool():
            return pool(layer, x)
        case BatchNorm():
            stats = variables['batch_stats'][layer.name]
            return (x - stats['mean']) / np.sqrt(stats['var'] + layer.epsilon)
        case Normalize():
            return (x - np.array(layer.mean)) / np.array(layer.std)
    raise AssertionError(layer)


def conv(layer: Conv, params: Any, x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, (layer.pads, layer.pads, (0, 0)))
    windows = sliding_window_view(padded, (layer.window, layer.window), (0, 1))
    windows = windows[:: layer.stride, :: layer.stride]  # [h, w, c, window, window]
    towers = [
        np.einsum('hwcij,ijcf->hwf', part, kernel, optimize=True)
        for part, kernel in zip(
            np.split(windows, layer.groups, axis=2),
            np.split(params['kernel'].astype(np.float64), layer.groups, axis=-1),
            strict=True,
        )
    ]
    return np.concatenate(towers, -1) + params['bias']


def local(layer: Local, params: Any, x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((layer.pad, layer.pad), (layer.pad, layer.pad), (0, 0)))
    b = params['bias'].astype(np.float64)
    for i, j in np.ndindex(b.shape[:2]):
        top, left = i * layer.stride, j * layer.stride
        window = padded[top : top + layer.window, left : left + layer.window]
        b[i, j] += np.einsum('ijc,ijcf->f', window, params['kernel'][i, j])
    return b


def lrn(layer: LRN, a: np.ndarray) -> np.ndarray:
    """b_i = a_i / (k + alpha sum_j a_j^2)^beta, j from max(0, i - n/2) to min(N - 1, i + n/2)."""
    b = np.zeros_like(a)
    channels, reach = a.shape[-1], layer.n // 2
    for i in range(channels):
        near = a[..., max(0, i - reach) : min(channels - 1, i + reach) + 1]
        b[..., i] = a[..., i] / (layer.k + layer.alpha * (near**2).sum(-1)) ** layer.beta
    return b


def pool(layer: MaxPool | AvgPool, x: np.ndarray) -> np.ndarray:
    height, width, channels = layer.output_shape(x.shape)
    reduce = np.max if isinstance(layer, MaxPool) else np.mean
    b = np.zeros((height, width, channels))
    for i in range(height):
        for j in range(width):
            top, left = i * layer.stride, j * layer.stride
            window = x[top : top + layer.window, left : left + layer.window]
            b[i, j] = reduce(window, axis=(0, 1))
    return b
