"""What a trained net sees: `python -m alexnet_jax.predict --workdir=runs/quickstart IMAGE...`.

Prints the five most probable classes of each image with their softmax probabilities, from the
run's own config, classes, mean image and best checkpoint.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import numpy as np
from absl import flags
from etils import epath

from alexnet_jax import cli
from alexnet_jax.errors import BadInput, run_command
from alexnet_jax.evaluation import steps
from alexnet_jax.model import variants
from alexnet_jax.run import checkpoint, workdir

_JSON = flags.DEFINE_bool('json', False, 'One JSON object an image instead of a table.')


def predict(folder: str, images: Sequence[str], top: int = 5) -> Iterator[list[tuple[str, float]]]:
    """Classify images with the best checkpoint of a run.

    Args:
      folder: workdir of the run.
      images: paths of image files.
      top: how many classes to give.

    Yields:
      For each image its most probable classes, (name, probability), most probable first.

    Raises:
      BadInput: no run in the folder, or an image that does not exist or has the wrong size.
      RunError: no sound checkpoint, or an image that does not decode.
    """
    from alexnet_jax.data import statistics
    from alexnet_jax.data.ops import chain  # bring TensorFlow

    run_config = workdir.read_config(folder)
    names = workdir.read_classes(folder)
    for image in images:
        if not epath.Path(image).is_file():
            raise BadInput(f'image {image} does not exist')
    network = checkpoint.load_variables(folder, checkpoint.best_step(folder))
    model = variants.make_model(run_config)
    size = run_config.image_size
    mean = np.zeros((size, size, 3), np.float32)
    if run_config.data.mean == 'image':
        mean = statistics.load(epath.Path(folder) / 'statistics.npz').center(size)
    log_probs = jax.jit(partial(steps.view_log_probs, model))
    ops, max_pixels = run_config.data.eval_ops, run_config.data.max_pixels
    for image in images:
        views = chain.read_image(image, ops, max_pixels)  # [H, W, 3] or [views, H, W, 3]
        if views.shape[-3:-1] != mean.shape[:2]:
            height, width = views.shape[-3:-1]
            raise BadInput(
                f'image {image} is {height} x {width} after data.eval_ops={ops!r}, and the network '
                f'takes {size} x {size}; resize it first'
            )
        probabilities = np.exp(log_probs(network, views[None], mean)[0])
        best = np.argsort(-probabilities[: len(names)])[:top]
        yield [(names[i], float(probabilities[i])) for i in best]


def main() -> None:
    """Print the classes of the images on the command line."""
    flags.DEFINE_string('workdir', None, 'Folder of the run.')
    _, *images = cli.parse_flags(sys.argv)
    if not flags.FLAGS.workdir or not images:
        raise BadInput('usage: python -m alexnet_jax.predict --workdir=DIR IMAGE...')
    for image, classes in zip(images, predict(flags.FLAGS.workdir, images), strict=True):
        if _JSON.value:
            found = [{'class': name, 'probability': p} for name, p in classes]
            print(json.dumps({'image': image, 'classes': found}))
        else:
            print(image)
            for name, probability in classes:
                print(f'  {probability:7.2%}  {name}')


if __name__ == '__main__':
    run_command(main)
