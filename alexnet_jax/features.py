"""Write a layer's output for images to a file: `python -m alexnet_jax.features --workdir=RUN ...`.

  python -m alexnet_jax.features --workdir=RUN --layer=relu7 --output=features.npz IMAGE...

Takes files, folders (searched recursively) and patterns such as 'photos/*.jpg'. The layer can be
any that `summary` prints. As in Caffe, `fc7` is the input of fc8: relu7, halved where the network
has the paper's dropout, which scales at test time. If the run's eval ops produce several views of
an image, their features are averaged. FILE.npz holds `features` float32 [images, ...], `paths` and,
for a folder of class folders, `classes`; FILE.csv has a line per image. An image that cannot be
used is reported and skipped, and the exit code is then 1.
"""

import csv
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from alexnet_jax import cli, files
from alexnet_jax.errors import BadInput, run_command, unwinding
from alexnet_jax.evaluation.batches import ImageFiles
from alexnet_jax.evaluation.ensemble import parse_member
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.parallel.runtime import configure_runtime

# The indices of images in `ImageFiles.paths` and their features, float32 [n, ...].
Batches = Iterator[tuple[np.ndarray, np.ndarray]]


def main() -> None:
    """Write the features of the images on the command line."""
    cli.define_net_flag()
    flags.DEFINE_string('layer', None, 'A layer as `summary` prints it, such as relu7.')
    flags.DEFINE_string('output', None, 'Write to this new file, FILE.npz or FILE.csv.')
    flags.DEFINE_integer('limit', None, 'Use only the first N images.', lower_bound=1)
    _, *arguments = cli.parse_flags(sys.argv)
    folder, layer, output = flags.FLAGS.workdir, flags.FLAGS.layer, flags.FLAGS.output
    if not (folder and layer and output and arguments):
        raise BadInput(
            'usage: python -m alexnet_jax.features --workdir=DIR --layer=NAME --output=FILE.npz '
            'IMAGE...'
        )
    cli.check_output(output, ('.npz', '.csv'))
    images = ImageFiles(arguments, flags.FLAGS.limit)
    configure_runtime()
    net = TrainedNet.load(*parse_member(folder))
    shape = net.feature_shape(layer)

    def features(pixels: np.ndarray) -> np.ndarray:
        found = net.features(pixels, layer)
        return found.mean(axis=1) if pixels.ndim == 5 else found  # over the views

    batches = images.apply(net, features, show_bar=True)
    write = _write_csv if output.endswith('.csv') else _write_npz
    with unwinding():
        count = write(Path(output), images, shape, batches)
    print(f'{output}: {layer} of {count:,} images, float32 {[count, *shape]}')
    images.check()


def _write_csv(path: Path, images: ImageFiles, shape: Sequence[int], batches: Batches) -> int:
    """Write a line per image: path, class and the features, row by row; return their number."""
    count = 0
    with files.replacing(path, is_new=True) as new, files.open_text(new) as file:
        rows = csv.writer(file, lineterminator='\n')
        rows.writerow(['path', 'class', *(f'feature_{i}' for i in range(math.prod(shape)))])
        for places, features in batches:
            # The shortest decimals that read back as the same float32.
            texts = features.reshape(len(places), -1).astype(str)
            for place, cells in zip(places.tolist(), texts.tolist(), strict=True):
                rows.writerow([images.names[place], images.classes[place], *cells])
            count += len(places)
    return count


def _write_npz(path: Path, images: ImageFiles, shape: Sequence[int], batches: Batches) -> int:
    """Write arrays with `numpy.savez`, the features by way of a file; return the number of images.

    An array begins with its size, and how many images can be used is known only at the end.
    """
    places = []
    with (
        files.replacing(path, is_new=True) as new,
        tempfile.TemporaryFile(dir=path.parent) as raw,  # just as large, and on the same disk
    ):
        for found, features in batches:
            raw.write(np.ascontiguousarray(features, np.float32).data)
            places += found.tolist()
        raw.flush()
        size = (len(places), *shape)
        features = np.memmap(raw, np.float32, 'r', shape=size) if places else np.zeros(size, 'f4')
        arrays = {'features': features, 'paths': np.array([images.names[p] for p in places], str)}
        if any(images.classes):
            arrays['classes'] = np.array([images.classes[p] for p in places], str)
        with open(new, 'wb') as file:  # to a name, savez would add .npz
            np.savez(file, **arrays)
    return len(places)


if __name__ == '__main__':
    run_command(main)
