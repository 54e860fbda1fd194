"""Where in an image a trained net finds a class: Grad-CAM and occlusion maps."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation.trained import BATCH, TrainedNet
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Activation, BatchNorm, Conv, Local, Table

GRAY = 128  # of the occluding square, if the run subtracts no mean


def last_convolution(layers: Table) -> int | None:
    """Return how many layers there are up to the last convolution's nonlinearity, or None."""
    found = [i for i, layer in enumerate(layers) if isinstance(layer, Conv | Local)]
    if not found:
        return None
    end = found[-1] + 1
    while isinstance(layers[end], BatchNorm | Activation):
        end += 1
    return end


def grad_cam(net: TrainedNet, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how much each place speaks for a class (Selvaraju et al. 2017, equations 1 and 2).

    The maps of the last convolution are weighted by their average gradients of the class's logit
    and added up, and what is negative becomes 0. That is enlarged bilinearly to the images' size.

    Args:
      net: The net.
      images: uint8 [n, H, W, 3], from `net.preprocess`; one view of each.
      labels: int [n], the class for which to look in each image.

    Returns:
      float32 [n, H, W], at least 0; on a scale of its own for each image.

    Raises:
      BadInput: The network has no convolution, the images or labels are of another shape, or a
        label is not one of the net's outputs.
    """
    if last_convolution(net.model.layers) is None:
        raise BadInput(f'{net.config.variant} has no convolution, which Grad-CAM needs')
    labels = _checked(net, images, labels)
    step = _grad_cam_step(net.model)  # pyright: ignore[reportArgumentType]  modules are frozen
    found = []
    for first in range(0, len(images), BATCH):
        batch, wanted = images[first : first + BATCH], labels[first : first + BATCH]
        padding = (1 << (len(batch) - 1).bit_length()) - len(batch)  # each size is compiled
        padded = np.pad(batch, [(0, padding), (0, 0), (0, 0), (0, 0)])
        maps = step(net.variables, padded, net.mean, np.pad(wanted, (0, padding)))
        found.append(np.asarray(maps)[: len(batch)])
    return np.concatenate(found)


def _checked(net: TrainedNet, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the labels as int32, after checks that JAX does not make of shapes and range."""
    size = net.config.image_size
    if images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise BadInput(
            f'images have shape {list(images.shape)}; it must be [n, {size}, {size}, 3]: if '
            'preprocess() returns several views, pass one of them'
        )
    labels = np.asarray(labels, np.int32)
    if labels.shape != (len(images),):
        raise BadInput(
            f'labels have shape {list(labels.shape)}; it must be [{len(images)}], one per image'
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < net.config.num_classes:
        raise BadInput(
            f'labels are from {labels.min()} to {labels.max()}; they must be from 0 to '
            f"{net.config.num_classes - 1}, the net's outputs"
        )
    return labels


@functools.lru_cache(maxsize=8)
def _grad_cam_step(model: AlexNet) -> Callable[..., jax.Array]:
    """(variables, uint8 [n, H, W, 3], mean, labels) -> float32 [n, H, W]."""
    end = last_convolution(model.layers)
    body, head = (model.clone(layers=part) for part in (model.layers[:end], model.layers[end:]))

    @jax.jit
    def step(variables, images, mean, labels):
        maps = jnp.asarray(body.apply(variables, images.astype(jnp.float32) - mean[None]))

        def logits(maps):
            found = jnp.asarray(head.apply(variables, maps))
            return jnp.take_along_axis(found, labels[:, None], axis=1).sum()

        weights = jax.grad(logits)(maps).astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
        found = jnp.maximum((weights * maps.astype(jnp.float32)).sum(axis=-1), 0)
        return jax.image.resize(found, images.shape[:3], 'linear')

    return step


def normalized(maps: np.ndarray) -> np.ndarray:
    """Return maps [n, h, w] of which each is divided by its maximum, if that is above 0."""
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(maps.dtype).tiny)


def occlusion(
    net: TrainedNet, images: np.ndarray, labels: np.ndarray, window: int | None = None
) -> np.ndarray:
    """Return the probability of a class as a square moves over the image (Zeiler and Fergus 2014).

    Where it falls, the net needs what the square hides. The square shows the mean image, or gray if
    the run subtracts none, and moves by half its width or a little less, from edge to edge.

    Args:
      net: The net.
      images: uint8 [n, H, W, 3], from `net.preprocess`; one view of each.
      labels: int [n], the class of which to compute the probability in each image.
      window: The width of the square in pixels; None for a fifth of the image's.

    Returns:
      float32 [n, rows, columns] in 0 .. 1, a probability for each position of the square.

    Raises:
      BadInput: The window does not fit into the image, the images or labels are of another shape,
        or a label is not one of the net's outputs.
    """
    size = net.config.image_size
    window = _usual_window(size) if window is None else window
    if not 1 <= window <= size:
        raise BadInput(f'a window of {window} pixels; it must be from 1 to {size}')
    labels = _checked(net, images, labels)
    starts = _starts(size, window)
    has_mean = net.config.data.mean != 'none'
    hidden = np.rint(net.mean).astype(np.uint8) if has_mean else np.full_like(images[0], GRAY)

    found = []
    for image, label in zip(images, labels, strict=True):
        views = np.repeat(image[None], len(starts) ** 2, axis=0)
        for view, (top, left) in enumerate((i, j) for i in starts for j in starts):
            where = slice(top, top + window), slice(left, left + window)
            views[view][where] = hidden[where]
        found.append(net.probabilities(views)[:, label].reshape(len(starts), -1))
    return np.stack(found)


def at_pixels(maps: np.ndarray, size: int, window: int | None = None) -> np.ndarray:
    """Return maps of `occlusion` pixel by pixel, interpolated between the centers of the squares.

    Args:
      maps: [n, rows, columns].
      size: The width of the images in pixels.
      window: As in `occlusion`.

    Returns:
      float64 [n, size, size].
    """
    window = _usual_window(size) if window is None else window
    centers = [start + (window - 1) / 2 for start in _starts(size, window)]
    weights = [np.interp(range(size), centers, unit) for unit in np.eye(len(centers))]
    return np.einsum('nrc,ri,cj->nij', maps, weights, weights)


def _usual_window(size: int) -> int:
    return -(-size // 5)


def _starts(size: int, window: int) -> list[int]:
    """Return where squares begin: half their width or a little less apart, from edge to edge."""
    count = -(-(size - window) // max(1, window // 2)) + 1
    return np.rint(np.linspace(0, size - window, count)).astype(int).tolist()
