"""The evaluation and prediction steps, sharded over the devices.

A batch is a dict of arrays, the slice of the global batch that this process reads:
  image        uint8 [b, H, W, 3], in evaluation also [b, views, H, W, 3]
  label        int32 [b], -1 for padding
  mask         float32 [b], 1 for an example that counts, 0 for padding or a bad image
and for training
  position     int32 [b], position in the global batch
  color_shift  float32 [b, 3], added to every pixel of the image
  color_scale  float32 [b], multiplies the result
  mirror       bool [b], which images to mirror left to right first; if absent, none
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.parallel import pmap

Batch = dict[str, np.ndarray]


def mirrored(batch: dict[str, Any]) -> Any:
    """Return the images of a batch, with those mirrored that it says: uint8 [b, H, W, 3]."""
    image = batch['image']
    if 'mirror' not in batch:
        return image
    where = np.where if isinstance(image, np.ndarray) else jnp.where
    return where(batch['mirror'][:, None, None, None], image[:, :, ::-1], image)


def make_eval_step(
    model: AlexNet, mean: np.ndarray, per_class: bool = False
) -> Callable[[dict[str, Any], Batch], dict[str, jax.Array]]:
    """Build the evaluation step.

    Args:
      model: The network.
      mean: float32 [H, W, 3], subtracted from every image.
      per_class: Whether to count the examples of each class, too.

    Returns:
      (variables, batch) -> sums over the global batch: loss, top1, top5, examples, bad_images; and
      `class_top1` and `class_examples`, int32 [classes], if asked for.
    """
    step = _eval_program(model, per_class)
    mean = pmap.replicate(mean)
    return lambda variables, batch: step(variables, pmap.shard(batch), mean)


def lower_eval_step(model: AlexNet, variables: dict[str, Any], batch: Batch) -> jax.stages.Lowered:
    """Lower the evaluation step, to compile and examine it without running it.

    Args:
      model: The network.
      variables: Its variables as shapes and dtypes.
      batch: A batch; only its shapes matter.
    """
    mean = np.zeros(batch['image'].shape[-3:], np.float32)
    return _eval_program(model).lower(variables, pmap.shard(batch), mean)


def _eval_program(model: AlexNet, per_class: bool = False) -> pmap.Mapped:
    def step_fn(variables, batch: dict[str, jax.Array], mean: jax.Array) -> dict[str, jax.Array]:
        log_probs = view_log_probs(model, variables, batch['image'], mean)
        label, mask = batch['label'], batch['mask']
        losses = -jnp.take_along_axis(log_probs, jnp.maximum(label, 0)[:, None], axis=1)[:, 0]
        sums = counts(log_probs, label, mask) | {'loss': jnp.where(mask > 0, losses, 0.0).sum()}
        if per_class:
            sums |= class_counts(log_probs, label, mask)
        return pmap.total(sums)

    return pmap.pmapped(step_fn, (None, 0, None))


def make_predict_step(
    function: Callable[[dict[str, Any], jax.Array, jax.Array], jax.Array], mean: np.ndarray
) -> Callable[[dict[str, Any], np.ndarray], jax.Array]:
    """Build a prediction step.

    Args:
      function: (variables, image uint8 [N, ...], mean) -> [N, ...], such as `view_log_probs` of a
        model.
      mean: float32 [H, W, 3], subtracted from every image.

    Returns:
      (variables, image uint8 as in a batch) -> the function's result, [b, ...], for the images of
      this process.
    """

    def step_fn(variables, batch: dict[str, jax.Array], mean: jax.Array) -> jax.Array:
        return function(variables, batch['image'], mean)

    step = pmap.pmapped(step_fn, (None, 0, None), out_axes=0)
    mean = pmap.replicate(mean)

    def predict(variables: dict[str, Any], image: np.ndarray) -> jax.Array:
        found = step(variables, pmap.shard({'image': image}), mean)
        return found.reshape(len(image), *found.shape[2:])

    return predict


def view_log_probs(
    model: AlexNet, variables: dict[str, Any], image: jax.Array, mean: jax.Array
) -> jax.Array:
    """Return the logarithm of the class probabilities, averaged over the views of each image.

    Args:
      model: The network.
      variables: Its params and batch_stats.
      image: uint8 [N, H, W, 3] or [N, views, H, W, 3].
      mean: float32 [H, W, 3].

    Returns:
      float32 [N, classes].
    """
    views = image.reshape(-1, *image.shape[-3:]).astype(jnp.float32) - mean[None]
    log_probs = jax.nn.log_softmax(jnp.asarray(model.apply(variables, views)))
    log_probs = log_probs.reshape(image.shape[0], -1, log_probs.shape[-1])
    return jax.nn.logsumexp(log_probs, axis=1) - np.log(log_probs.shape[1])


def counts(scores: jax.Array, label: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Count examples, bad images, and labels whose score is the highest or among the top five.

    Args:
      scores: float [b, classes]; logits or log-probabilities.
      label: int32 [b], -1 for padding.
      mask: float32 [b], 0 for padding and bad images.

    Returns:
      int32 scalars: top1, top5, examples, bad_images.
    """
    is_example = mask > 0
    _, best = jax.lax.top_k(scores, min(5, scores.shape[-1]))
    hit = (best == label[:, None]) & is_example[:, None]
    numbers = {
        'top1': hit[:, 0],
        'top5': hit,
        'examples': is_example,
        'bad_images': ~is_example & (label >= 0),
    }
    return {key: value.sum(dtype=jnp.int32) for key, value in numbers.items()}


def class_counts(scores: jax.Array, label: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Count the examples of each class, and those of them whose label has the highest score.

    Args:
      scores, label, mask: As for `counts`.

    Returns:
      int32 [classes]: class_top1, class_examples.
    """
    is_of = jax.nn.one_hot(label, scores.shape[-1], dtype=bool) & (mask > 0)[:, None]
    hit = (jax.lax.top_k(scores, 1)[1][:, 0] == label)[:, None]
    numbers = {'class_top1': is_of & hit, 'class_examples': is_of}
    return {key: value.sum(0, dtype=jnp.int32) for key, value in numbers.items()}
