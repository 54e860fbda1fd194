"""What a tour shows: a picture, and the net that looks at it."""

import dataclasses
import re
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath

from alexnet_jax.cloud import copies
from alexnet_jax.data import statistics
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation.batches import check_can_be_read_twice
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Table
from alexnet_jax.model.shapes import LayerInfo, layer_infos

GRAY = 127.5  # stands for the mean image where there is no training set


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A picture and a net, ready to be shown.

    Attributes:
      picture: The picture's file name.
      encoded: The bytes of that file.
      image: What the net sees of it: uint8 [image_size, image_size, 3].
      eval_ops: The ops that made `image`.
      mean: What is subtracted from it: float32 [image_size, image_size, 3].
      config: The config of the run, or the recipe.
      model: The network, in float32.
      variables: Its collections `params` and `batch_stats`, on the host.
      labels: The readable names of its outputs; '' for those that no class of a data set has.
      statistics: Those of the training set; None without a run, or if the run has none.
      run: The run's folder; None for initial weights.
      step: The checkpoint's step.
    """

    picture: str
    encoded: bytes
    image: np.ndarray
    eval_ops: str
    mean: np.ndarray
    config: ml_collections.ConfigDict
    model: AlexNet
    variables: dict[str, Any]
    labels: list[str]
    statistics: Statistics | None
    run: str | None
    step: int

    @property
    def layers(self) -> Table:
        """The network's table."""
        return self.model.layers

    @property
    def infos(self) -> list[LayerInfo]:
        """Its layers in their places."""
        return list(layer_infos(self.layers, self.config.image_size))

    @property
    def params(self) -> dict[str, dict[str, np.ndarray]]:
        """Its parameters."""
        return self.variables['params']

    @property
    def centered(self) -> np.ndarray:
        """The network's input: `image` less `mean`, float32 [1, image_size, image_size, 3]."""
        return (self.image.astype(np.float32) - self.mean)[None]


def from_run(picture: str, workdir: str, step: int | None) -> Subject:
    """Return a picture and the net of a run.

    Args:
      picture: An image file.
      workdir: The run's folder.
      step: The checkpoint's step; None for the best.

    Raises:
      BadInput: The file cannot be read, or has another size after the run's eval ops; or the folder
        holds no run, or no such checkpoint.
      RunError: The file is no image, or the checkpoint is damaged.
    """
    encoded = _read(picture)
    net = TrainedNet.load(workdir, step, dtype='float32')
    path = epath.Path(net.workdir) / 'statistics.npz'
    found = statistics.load(path) if path.exists() else None
    return _subject(picture, encoded, net, net.mean, found, workdir)


def from_recipe(picture: str, config: ml_collections.ConfigDict) -> Subject:
    """Return a picture and a net with the initial weights that training would start from.

    The picture is rotated upright and antialiased, even where the recipe reads images as stored:
    only published results need that, and the picture may be a large photo.

    Args:
      picture: An image file.
      config: A validated recipe.

    Raises:
      BadInput: The file cannot be read, or has another size after the recipe's eval ops; or the
        recipe starts from the weights of a run.
      RunError: It is no image.
    """
    if config.init_from:
        raise BadInput(
            f'init_from={config.init_from}: training would start from the weights of that run, not '
            f'from initial ones; show them with --workdir={config.init_from}'
        )
    encoded = _read(picture)
    config = config.copy_and_resolve_references()
    config.dtype = 'float32'
    for key in ('train_ops', 'eval_ops'):
        config.data[key] = _for_photos(config.data[key])
    model, size = variants.make_model(config), config.image_size
    shape = (1, size, size, 3)
    variables = jax.jit(lambda key: model.init(key, np.zeros(shape, np.float32)))(
        jax.random.key(config.seed)
    )
    net = TrainedNet('', 0, config, [], model, variables)
    gray = 0.0 if config.data.mean == 'none' else GRAY
    mean = np.full(shape[1:], gray, np.float32)
    return _subject(picture, encoded, net, mean, None, None)


def _read(picture: str) -> bytes:
    check_can_be_read_twice(place := copies.local_path(picture))
    path = epath.Path(place)
    if path.is_dir():
        raise BadInput(f'image {picture} is a folder; pass one image file')
    if not path.exists():
        raise BadInput(f'image {picture} does not exist')
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f'image {picture} cannot be read: {error.strerror or error}') from error


def _subject(
    picture: str,
    encoded: bytes,
    net: TrainedNet,
    mean: np.ndarray,
    found: Statistics | None,
    run: str | None,
) -> Subject:
    net.config.data.eval_ops = _one_view(net.config)
    *_, head = layer_infos(net.model.layers, net.config.image_size)
    labels = list(net.display_names)
    labels += [''] * (head.output[0] - len(labels))
    return Subject(
        picture=epath.Path(picture).name,
        encoded=encoded,
        image=net.preprocess(picture),
        eval_ops=net.config.data.eval_ops,
        mean=mean,
        config=net.config,
        model=net.model,
        variables=jax.device_get(net.variables),
        labels=labels,
        statistics=found,
        run=run,
        step=net.step,
    )


def _for_photos(ops: str) -> str:
    """Return ops without `stored`, and with `antialias`; `configs/finetune.py` does the same."""
    resized = re.sub(r'\b(resize(?:_short)?\([\d, ]+)\)', r'\1, antialias)', ops)
    return resized.replace('decode(stored)', 'decode')


def _one_view(config: ml_collections.ConfigDict) -> str:
    """The eval ops; those that make several views of an image make only its center."""
    from alexnet_jax.data.ops.chain import parse  # imports TensorFlow, which takes seconds

    ops = config.data.eval_ops
    if not parse(ops).ops[-1].views:  # crops(N, 1) makes one view, but with an axis of views
        return ops
    return f'{ops.rpartition("|")[0]}|center_crop({config.image_size})'
