"""Classify images with a trained net: `python -m alexnet_jax.predict --workdir=RUN IMAGE...`.

Prints the five most probable classes of each image with their probabilities, from the run's best
checkpoint.
"""

import json
import sys

from absl import flags
from etils import epath

from alexnet_jax import cli
from alexnet_jax.errors import BadInput, run_command
from alexnet_jax.evaluation.trained import TrainedNet

_JSON = flags.DEFINE_bool('json', False, 'Print one JSON object per image instead of a table.')


def main() -> None:
    """Print the classes of the images on the command line."""
    flags.DEFINE_string('workdir', None, "The run's folder.")
    _, *images = cli.parse_flags(sys.argv)
    if not flags.FLAGS.workdir or not images:
        raise BadInput('usage: python -m alexnet_jax.predict --workdir=DIR IMAGE...')
    for image in images:
        if not epath.Path(image).is_file():
            raise BadInput(f'image {image} does not exist')
    net = TrainedNet.load(flags.FLAGS.workdir)
    for image in images:
        classes = net.predict(image)
        if _JSON.value:
            found = [{'class': name, 'probability': p} for name, p in classes]
            print(json.dumps({'image': image, 'classes': found}))
        else:
            print(image)
            for name, probability in classes:
                print(f'  {probability:7.2%}  {name}')


if __name__ == '__main__':
    run_command(main)
