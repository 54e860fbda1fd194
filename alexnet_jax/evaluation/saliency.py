"""Where in an image a trained net finds a class: Grad-CAM and occlusion maps."""

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation.trained import BATCH, TrainedNet
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
      images: uint8 [n, H, W, 3], from `net.preprocess`.
      labels: int [n], the class for which to look in each image.

    Returns:
      float32 [n, H, W], at least 0; on a scale of its own for each image.

    Raises:
      BadInput: The network has no convolution.
    """
    layers, size = net.model.layers, net.config.image_size
    end = last_convolution(layers)
    if end is None:
        raise BadInput(f'{net.config.variant} has no convolution, which Grad-CAM needs')
    body, head = (net.model.clone(layers=part) for part in (layers[:end], layers[end:]))

    @jax.jit
    def maps_of(variables, batch, mean, labels):
        maps = jnp.asarray(body.apply(variables, batch.astype(jnp.float32) - mean[None]))

        def logits(maps):
            found = jnp.asarray(head.apply(variables, maps))
            return jnp.take_along_axis(found, labels[:, None], axis=1).sum()

        weights = jax.grad(logits)(maps).astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
        found = jnp.maximum((weights * maps.astype(jnp.float32)).sum(axis=-1), 0)
        return jax.image.resize(found, (len(found), size, size), 'linear')

    pieces = [
        maps_of(net.variables, images[i : i + BATCH], net.mean, np.asarray(labels)[i : i + BATCH])
        for i in range(0, len(images), BATCH)
    ]
    return np.concatenate(pieces)


def occlusion(
    net: TrainedNet, images: np.ndarray, labels: np.ndarray, window: int | None = None
) -> np.ndarray:
    """Return the probability of a class as a square moves over the image (Zeiler and Fergus 2014).

    Where it falls, the net needs what the square hides. The square shows the mean image, or gray if
    the run subtracts none, and moves by half its width.

    Args:
      net: The net.
      images: uint8 [n, H, W, 3], from `net.preprocess`.
      labels: int [n], the class of which to compute the probability in each image.
      window: The width of the square in pixels; None for a fifth of the image's.

    Returns:
      float32 [n, rows, columns] in 0 .. 1, a probability for each position of the square.

    Raises:
      BadInput: The window does not fit into the image.
    """
    size = net.config.image_size
    window = -(-size // 5) if window is None else window
    if not 1 <= window <= size:
        raise BadInput(f'a window of {window} pixels; it must be from 1 to {size}')
    starts = range(0, size - window + 1, max(1, window // 2))
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
