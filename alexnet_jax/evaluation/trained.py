"""TrainedNet: the one place that loads a trained net."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from PIL import Image

from alexnet_jax.data import statistics
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.evaluation import class_words, steps
from alexnet_jax.model import summary, variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Shape, Table
from alexnet_jax.model.shapes import layer_infos, layers_up_to
from alexnet_jax.parallel import pmap
from alexnet_jax.run import checkpoint, remote, saved
from alexnet_jax.run.workdir import read_classes
from alexnet_jax.saved_config import read_config

BATCH = 64  # images, or views of them, that a device computes at once

Step = Callable[[np.ndarray], jax.Array]
AnyImage = str | os.PathLike[str] | bytes | np.ndarray | Image.Image
Ranking = list[tuple[str, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNet:
    """The network of a run with the weights of one of its checkpoints.

        net = TrainedNet.load('runs/quickstart')
        net.predict('digit.png')
        net.predict([path, pillow_image, pixels])
        images = np.stack([net.preprocess(path) for path in paths])
        net.probabilities(images)
        net.features(images, layer='fc7')

    It computes on all devices. With several processes, each passes its own images, as many as the
    others do, and receives the results for them.

    Attributes:
      workdir: The run's folder, or the local copy of it.
      step: The checkpoint's step.
      config: The run's config.
      class_names: The dataset's class names in label order; the network may have more outputs than
        names.
      model: The Flax module.
      variables: The collections `params` and `batch_stats`, on every device.
    """

    workdir: str
    step: int
    config: ml_collections.ConfigDict = dataclasses.field(repr=False)
    class_names: list[str] = dataclasses.field(repr=False)
    model: AlexNet = dataclasses.field(repr=False)
    variables: dict[str, Any] = dataclasses.field(repr=False)

    @classmethod
    def load(
        cls,
        workdir: str | os.PathLike[str],
        step: int | None = None,
        dtype: str | None = None,
        precision: str | None = None,
    ) -> 'TrainedNet':
        """Load a checkpoint of a run, verified. The run may be training: nothing is locked.

        Args:
          workdir: The run's folder; of a gs:// or s3:// URL, a local copy is made.
          step: The checkpoint's step; None for the one with the best eval top-1.
          dtype: The dtype to compute in; None for the run's.
          precision: The precision of products with weights; None for the run's.

        Raises:
          BadInput: The folder holds no run, or no checkpoint of that step.
          RunError: There is no checkpoint yet, or it is corrupt or from a different network.
        """
        url, workdir = os.fspath(workdir), remote.local_copy(workdir, step)
        config = read_config(workdir)
        config.dtype, config.precision = dtype or config.dtype, precision or config.precision
        found = saved.find_step(workdir, step)
        try:
            variables = checkpoint.load_variables(workdir, found)
        except RunError:
            if step is None and found not in saved.find_steps(workdir):
                return cls.load(url, None, dtype, precision)  # training has replaced the best
            raise
        model, size = variants.make_model(config), config.image_size
        image = np.zeros((1, size, size, 3), np.float32)
        expected = {'batch_stats': {}} | jax.eval_shape(model.init, jax.random.key(0), image)
        if jax.tree.map(np.shape, variables) != jax.tree.map(np.shape, expected):
            raise RunError(
                f'checkpoint {saved.folder_of(workdir) / str(found)} does not match '
                f'the current {config.variant} network; train again with a different --workdir'
            )
        return cls(workdir, found, config, read_classes(workdir), model, pmap.replicate(variables))

    @property
    def params(self) -> dict[str, dict[str, np.ndarray]]:
        """The parameters on the host, as in `params['conv1']['kernel']`."""
        return jax.device_get(self.variables['params'])

    @functools.cached_property
    def display_names(self) -> list[str]:
        """Readable class names: 'tench' for ImageNet's n01440764, else `class_names`."""
        return class_words.display_names(self.class_names)

    def summary(self) -> str:
        """Return the network as a table of shapes and counts, which `summary` prints."""
        return summary.summary(self.config)

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """What is subtracted from every image: float32 [image_size, image_size, 3]."""
        size = self.config.image_size
        if self.config.data.mean == 'none':
            return np.zeros((size, size, 3), np.float32)
        return statistics.load(epath.Path(self.workdir) / 'statistics.npz').center(size)

    def preprocess(self, image: AnyImage) -> np.ndarray:
        """Apply the run's `data.eval_ops` to one image.

        Args:
          image: A file, the bytes of one, an array uint8 [H, W, 3] or [H, W], or a Pillow image.

        Returns:
          uint8 [image_size, image_size, 3]; [views, image_size, image_size, 3] if the ops give
          several views.

        Raises:
          BadInput: The file cannot be read, or the image ends up with another size.
          RunError: The image cannot be decoded.
        """
        from alexnet_jax.data.ops import chain, pillow  # importing TensorFlow takes seconds

        data, size = self.config.data, self.config.image_size
        if isinstance(image, str | os.PathLike):
            name = f'image {os.fspath(image)}'
            views = chain.read_image(os.fspath(image), data.eval_ops, data.max_pixels)
        else:
            name = 'the image'
            encoded = image if isinstance(image, bytes) else pillow.to_png(image)
            preprocess = chain.parse(data.eval_ops, data.max_pixels)
            views = chain.apply_ops(preprocess, encoded, name)
        if views.shape[-3:-1] != (size, size):
            height, width = views.shape[-3:-1]
            raise BadInput(
                f'{name} is {height} x {width} after data.eval_ops={data.eval_ops!r}, but the '
                f'network takes {size} x {size}; resize it first'
            )
        return views

    @overload
    def predict(self, image: AnyImage, top: int = 5) -> Ranking: ...
    @overload
    def predict(self, image: Sequence[AnyImage], top: int = 5) -> list[Ranking]: ...
    def predict(
        self, image: AnyImage | Sequence[AnyImage], top: int = 5
    ) -> Ranking | list[Ranking]:
        """Return the most probable classes of an image, (name, probability), best first.

        Args:
          image: As for `preprocess`, which raises the same errors; or a list of such images.
          top: The number of classes.

        Returns:
          The classes by their `display_names`; for a list of images, a list for each.
        """
        images = image if isinstance(image, list | tuple) else [image]
        found = []
        with ThreadPoolExecutor() as pool:
            for first in range(0, len(images), BATCH):
                views = np.stack(list(pool.map(self.preprocess, images[first : first + BATCH])))
                for row in self.probabilities(views):
                    found.append([(self.display_names[i], p) for i, p in self.rank(row, top)])
        return found if image is images else found[0]

    def rank(self, probabilities: np.ndarray, top: int) -> list[tuple[int, float]]:
        """Return an image's most probable classes, (label, probability), best first.

        Args:
          probabilities: Those of an image, float32 [outputs].
          top: The number of classes.
        """
        named = probabilities[: len(self.class_names)]
        return [(int(i), float(named[i])) for i in np.argsort(-named, kind='stable')[:top]]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return class probabilities, averaged over the views of each image.

        Args:
          images: uint8 [n, H, W, 3] or [n, views, H, W, 3], from `preprocess`; any n.

        Returns:
          float32 [n, outputs].

        Raises:
          BadInput: The images are of another shape or dtype.
        """
        return np.exp(self.log_probs(images))

    def log_probs(self, images: np.ndarray) -> np.ndarray:
        """Return the logarithms of `probabilities`, which hold what exp would round to 0 or 1."""
        return self._in_batches(self.predict_step, images)

    def features(self, images: np.ndarray, layer: str | None = None) -> np.ndarray:
        """Return a layer's output for images.

        Layers are named as `summary` prints them. The name of a convolution or fully connected
        layer stands for its output after the nonlinearity and dropout (off, but scaled where the
        variant does so at test time) that follow it directly: 'fc7' is the input of fc8, as in
        Caffe. The name of the last layer gives the logits.

        Args:
          images: As for `probabilities`.
          layer: The layer's name; None for the input of the last layer, in AlexNet that of 'fc7'.

        Returns:
          float32 [n, features] or [n, h, w, channels]; with views, [n, views, ...].

        Raises:
          BadInput: There is no layer of that name, or the images are of another shape or dtype.
        """
        return self._in_batches(self._feature_step(self._layers_to(layer)), images)

    def feature_shape(self, layer: str) -> Shape:
        """Return the shape of an image's `features`: (features,) or (h, w, channels).

        Raises:
          BadInput: There is no layer of that name.
        """
        *_, last = layer_infos(self._layers_to(layer), self.config.image_size)
        return last.output

    def _layers_to(self, layer: str | None) -> Table:
        table = self.model.layers
        return table[:-1] if layer is None else layers_up_to(table, layer, self.config.image_size)

    @functools.cached_property
    def predict_step(self) -> Step:
        """Log-probabilities of a whole batch, left on the devices.

        (uint8 [b, ...] as `log_probs` takes, b a multiple of the devices) -> float32 [b, outputs].
        Each new b is compiled.
        """
        return self._make_step(functools.partial(steps.view_log_probs, self.model))

    @functools.cached_property
    def _feature_step(self) -> Callable[[Table], Step]:
        return functools.cache(self._make_feature_step)

    def _make_feature_step(self, layers: Table) -> Step:
        body = self.model.clone(layers=layers)

        def features(variables: dict[str, Any], image: jax.Array, mean: jax.Array) -> jax.Array:
            views = image.reshape(-1, *image.shape[-3:]).astype(jnp.float32) - mean[None]
            found = jnp.asarray(body.apply(variables, views), jnp.float32)
            return found.reshape(*image.shape[:-3], *found.shape[1:])

        return self._make_step(features)

    def _make_step(self, function: Callable[..., jax.Array]) -> Step:
        return functools.partial(steps.make_predict_step(function, self.mean), self.variables)

    def _in_batches(self, step: Step, images: np.ndarray) -> np.ndarray:
        """Apply a step to any number of images, padded to a few sizes, since each is compiled."""
        size = self.config.image_size
        fits = images.ndim in (4, 5) and images.shape[-3:] == (size, size, 3)
        fits &= images.ndim == 4 or images.shape[1] > 0
        if images.dtype != np.uint8 or not fits:
            raise BadInput(
                f'images are {images.dtype} {list(images.shape)}; they must be uint8 '
                f'[n, {size}, {size}, 3] or [n, views, {size}, {size}, 3]: see preprocess()'
            )
        devices, views = jax.local_device_count(), math.prod(images.shape[1:-3])
        most = max(1, BATCH // views)  # images a device
        found = []
        for first in range(0, max(len(images), 1), most * devices):  # without images, once
            piece = images[first : first + most * devices]
            each = max(1, -(-len(piece) // devices))
            padded = min(most, 1 << (each - 1).bit_length()) * devices  # the next power of two
            padding = [(0, padded - len(piece))] + [(0, 0)] * (images.ndim - 1)
            found.append(np.asarray(step(np.pad(piece, padding)))[: len(piece)])
        return np.concatenate(found)
