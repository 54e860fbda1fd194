"""Turn published weights into a run: `python -m alexnet_jax.convert FILE --workdir=RUN`.

FILE is torchvision's AlexNet (.pth), BVLC's AlexNet or CaffeNet (.caffemodel), either of them from
the ONNX model zoo (.onnx), or an onnx or torch export of `alexnet_jax.export`. The format is
detected from the content, and nothing in the file is executed. The run works like any other with
predict, --mode=eval, report, init_from, features and export.
"""

import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags

from alexnet_jax import cli
from alexnet_jax.cloud.store import is_url
from alexnet_jax.config import validate
from alexnet_jax.data.sources.labels import nfc
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import BadInput, run_command, unwinding
from alexnet_jax.evaluation.class_words import imagenet_ids
from alexnet_jax.model import variants
from alexnet_jax.model.layers import Conv
from alexnet_jax.run import converted, remote
from alexnet_jax.saved_config import parse_config
from alexnet_jax.weights import identify, layout, reading
from alexnet_jax.weights.reading import File

USAGE = (
    'usage: python -m alexnet_jax.convert FILE --workdir=RUN [--mean=MEAN.binaryproto] '
    '[--classes=FILE] [--variant=NAME]'
)
# Mean RGB pixel of ImageNet's training images; Caffe's examples/00-classification.ipynb subtracts
# it in place of the mean image.
CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)
CAFFE_SIZE = 256  # height and width of Caffe's mean images, before the crop
UNEDITED = (
    'a state dict does not specify nonlinearities, norms, pools or the order of the colors; those '
    'of {}, without edits, and RGB are assumed'
)
MAX_NAMES = 10_000_000  # bytes of --classes


def convert(
    file: File,
    workdir: str,
    mean_file: str | None = None,
    classes_file: str | None = None,
    variant: str | None = None,
) -> list[tuple[str, str]]:
    """Write the weights in a file as a run.

    Args:
      file: The file's contents.
      workdir: The folder to create.
      mean_file: A Caffe .binaryproto with the mean image; None for the mean color.
      classes_file: A text file with one class name per line; None for the export's or ImageNet's.
      variant: The variant, in case shapes and layers fit several.

    Returns:
      A summary, as lines (label, text).

    Raises:
      BadInput: The weights fit no network, are not finite, or lack a mean or names; or the mean or
        the names do not fit. The message names the file.
    """
    try:
        config, variables = read_network(file, variant)
        mean, about_mean = _mean(file, config, mean_file)
        names, about_names = _class_names(file, config, classes_file)
    except BadInput as error:
        raise BadInput(f'{file.path}: {error}') from error
    contents = file.contents
    source: dict[str, Any] = {
        'name': file.name,
        'size': file.size,
        'sha256': file.sha256,
        'as_published': file.as_published,
        'format': contents.format,
        'variant': config.variant,
        'mean': about_mean,
    }
    if metadata := contents.metadata:
        source |= {key: metadata.get(key) for key in ('source', 'scores')}
    statistics = None if mean is None else Statistics(mean, np.zeros(3), np.eye(3), about_mean)
    converted.write(workdir, config, names, statistics, variables, source)

    count = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    published = ', as published' if file.as_published else ''
    lines = [
        (file.name, f'{contents.format}, {file.size / 1e6:,.1f} MB{published}'),
        ('network', f'{", ".join([config.variant, *config.edits])}, {count:,} parameters'),
        ('classes', f'{len(names):,}, {about_names}'),
        ('mean', about_mean),
    ]
    if contents.bgr:
        lines.append(
            ('pixels', 'RGB: the first layer took BGR, so its input channels were reversed')
        )
    if contents.note:
        lines.append(('note', contents.note))
    elif contents.rows is None and contents.metadata is None and config.variant != 'torchvision':
        lines.append(('note', UNEDITED.format(config.variant)))
    return lines


def read_network(
    file: File, variant: str | None
) -> tuple[ml_collections.ConfigDict, layout.Variables]:
    """Return the config of a file's network, and its weights for RGB.

    Raises:
      BadInput: They fit no network, or are not finite.
    """
    contents = file.contents
    if contents.metadata is not None:
        config = _own_config(contents.metadata)
        if variant not in (None, config.variant):
            raise BadInput(f'its metadata names {config.variant}, not --variant={variant}')
        tensors = contents.tensors
        if config.variant == 'torchvision':  # `--format=torch` gives it torchvision's names
            tensors = layout.from_torchvision(tensors)
    else:
        config, tensors = identify.identify(contents, variant)
    table = variants.build(config.variant, config.edits, config.num_classes)
    with np.errstate(over='ignore', invalid='ignore'):  # what float32 cannot hold becomes inf
        variables = layout.from_torch(table, config.image_size, tensors)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if bad := leaf.size - int(np.isfinite(leaf).sum()):
            name = '/'.join(key.key for key in path[1:])
            raise BadInput(
                f'{name} has {bad:,} values that are not finite; the network is unusable'
            )
    if contents.bgr:
        assert isinstance(table[0], Conv)
        first = variables['params'][table[0].name]
        first['kernel'] = np.ascontiguousarray(first['kernel'][:, :, ::-1])
    return config, variables


def _own_config(metadata: dict[str, Any]) -> ml_collections.ConfigDict:
    """Return the config that an export carries."""
    if not isinstance(metadata.get('config'), dict):
        raise BadInput('its metadata is damaged: the config is not an object; export it again')
    try:
        config = parse_config(metadata['config'], 'its config', 'export it again')
        validate(config)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadInput(f'its config is damaged: {error}; export it again') from error
    return config


def _mean(
    file: File, config: ml_collections.ConfigDict, given: str | None
) -> tuple[np.ndarray | None, str]:
    """Return the mean image, float32 [h, w, 3], if the network subtracts one, and what it is."""
    size, known = config.image_size, file.contents.mean
    if config.data.mean == 'none':
        if given:
            raise BadInput(f'{config.variant} subtracts no mean image; leave out --mean')
        if known is not None and file.contents.metadata is None:
            raise BadInput(
                f'it has a mean image, which {config.variant} does not subtract: the scores would '
                f'differ from those of the network in the file'
            )
        return None, 'none to subtract'
    if given:
        mean, allowed = reading.read_mean(Path(given)), {CAFFE_SIZE, size}
        if mean.shape[0] != mean.shape[1] or len(mean) not in allowed:
            raise BadInput(
                f'--mean={given} is {mean.shape[0]} x {mean.shape[1]}; it must be {CAFFE_SIZE} x '
                f'{CAFFE_SIZE}, from which {config.variant} crops {size} x {size}, or '
                f'{size} x {size}'
            )
        if not np.isfinite(mean).all():
            raise BadInput(f'--mean={given} has values that are not finite')
        return mean, f'{Path(given).name}, {mean.shape[0]} x {mean.shape[1]}'
    if file.contents.bgr:
        mean = np.full((CAFFE_SIZE, CAFFE_SIZE, 3), CAFFE_MEAN, np.float32)
        return mean, "Caffe's mean color, since no --mean was given"
    if file.contents.metadata is not None and known is None:  # an export leaves out zeros
        known = np.zeros((size, size, 3), np.float32)
    if known is None:
        raise BadInput(f'it lacks the mean image that {config.variant} subtracts; add --mean')
    if known.shape != (size, size, 3) or not np.isfinite(known).all():
        raise BadInput(f'its mean is damaged (shape {list(known.shape)}); export it again')
    return np.ascontiguousarray(known, np.float32), f'in the file, {size} x {size}'


def _class_names(
    file: File, config: ml_collections.ConfigDict, given: str | None
) -> tuple[list[str], str]:
    """Return the class names in label order, and where they come from."""
    outputs = config.num_classes
    if given:
        names = _read_names(Path(given))
        if len(names) != outputs:
            raise BadInput(f'it has {outputs:,} classes, but --classes={given} has {len(names):,}')
        return names, f'named in {Path(given).name}'
    if file.contents.metadata is not None:
        names = file.contents.metadata.get('class_names')
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadInput('its metadata is damaged: class_names is not a list of strings')
        if len(names) > outputs:
            raise BadInput(f'its metadata names {len(names):,} classes, but it has {outputs:,}')
        return names, 'named in the file'
    if outputs == len(names := imagenet_ids()):
        return names, "ImageNet's"
    raise BadInput(
        f"it has {outputs:,} classes, which are not ImageNet's 1,000; name them in --classes=FILE, "
        'one per line'
    )


def _read_names(path: Path) -> list[str]:
    """Return the class names in a text file, one per line."""
    try:
        if path.stat().st_size > MAX_NAMES:
            raise BadInput(f'--classes={path} has {path.stat().st_size:,} bytes, too many')
        text = path.read_text(encoding='utf-8-sig').rstrip('\r\n')
        names = [nfc(line.strip()) for line in text.splitlines()]
    except OSError as error:
        raise BadInput(f'--classes={path} cannot be read: {error.strerror or error}') from error
    except UnicodeDecodeError as error:
        raise BadInput(f'--classes={path} is not UTF-8 text') from error
    if '' in names:
        raise BadInput(f'--classes={path}, line {names.index("") + 1} is empty')
    ((name, count),) = Counter(names).most_common(1) or [('', 0)]
    if count > 1:
        raise BadInput(f'--classes={path} lists {name!r} {count} times')
    return names


def main() -> None:
    """Convert the file on the command line."""
    flags.DEFINE_string('workdir', None, 'The folder to create, or its URL.')
    flags.DEFINE_string(
        'mean', None, "Caffe's mean image, a .binaryproto; by default its mean color."
    )
    flags.DEFINE_string('classes', None, 'Text file with one class name per line, in label order.')
    flags.DEFINE_string('variant', None, 'Network, if the file fits several.')
    _, *paths = cli.parse_flags(sys.argv)
    workdir, mean, classes, variant = (
        flags.FLAGS[name].value for name in ('workdir', 'mean', 'classes', 'variant')
    )
    if len(paths) != 1 or not workdir:
        raise BadInput(USAGE)
    for path in (paths[0], mean, classes):
        if path and is_url(path):
            raise BadInput(f'{path} is a URL; download it, and pass the local file')
    try:
        with unwinding(), remote.new_run(workdir) as folder:
            converted.check(folder)
            cli.show_progress(f'reading {paths[0]}')
            file = reading.read(Path(paths[0]))
            cli.show_progress(f'writing {workdir}')
            lines = convert(file, folder, mean, classes, variant)
    finally:
        cli.show_progress('')
    (name, what), *rest = lines
    quoted = shlex.quote(workdir)
    print(f'{name}: {what}')
    for what, text in [
        *rest,
        ('workdir', workdir),
        ('try it', f'python -m alexnet_jax.predict --workdir={quoted} IMAGE...'),
        (
            'fine-tune',
            f'python -m alexnet_jax.main --config=finetune:{quoted},PATH --workdir=NEW',
        ),
    ]:
        print(f'  {what:10} {text}')


if __name__ == '__main__':
    run_command(main)
