"""Export a trained net: ONNX, StableHLO, PyTorch or a page for browsers.

  python -m alexnet_jax.export --workdir=RUN[@STEP] --format=FORMAT --output=PATH

In every format but torch, the net takes uint8 RGB images [N, S, S, 3] after the run's eval ops and
returns probabilities and logits; mean and scaling are inside. torch writes a folder as on model
hubs, whose README.md explains how to use it: [N, 3, S, S] in, logits out.
"""

import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from alexnet_jax import cli, files
from alexnet_jax.errors import BadInput, RunError, run_command, unwinding
from alexnet_jax.evaluation.ensemble import parse_member
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.parallel import hardware
from alexnet_jax.weights import hlo, torch_out

Writer = Callable[[TrainedNet, Path], None]  # to a path that does not exist yet

ONNX = 'onnx==1.23.2'  # what some formats need besides requirements.txt


def _onnx() -> Writer:
    _check_installed()
    from alexnet_jax.weights import onnx_out  # needs the package

    return onnx_out.write


def _web() -> Writer:
    _check_installed()
    from alexnet_jax.weights import web  # likewise

    runtime = web.read_runtime(Path(flags.FLAGS.onnxruntime_web or web.PACKAGE))
    return functools.partial(web.write, runtime=runtime)


def _torch() -> Writer:
    return functools.partial(torch_out.write, license_name=flags.FLAGS.license)


# Each checks that the format's requirements are installed, and returns its writer.
FORMATS: dict[str, Callable[[], Writer]] = {
    'onnx': _onnx,
    'stablehlo': lambda: hlo.write,
    'torch': _torch,
    'web': _web,
}


def _check_installed() -> None:
    if not importlib.util.find_spec('onnx'):
        raise BadInput(f'this format needs the package onnx: pip install {ONNX}')


def export(net: TrainedNet, write: Writer, output: Path) -> None:
    """Write a net completely or not at all.

    Args:
      net: The net, loaded in float32.
      write: The format's writer.
      output: The file or folder to create, with its parents.

    Raises:
      BadInput: The format cannot express the run.
      RunError: It cannot be written, for instance because the disk is full.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(output, is_new=True) as temporary:
            write(net, temporary)
    except OSError as error:
        raise RunError(f'{output} could not be written: {error.strerror or error}') from error


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    paths = path.rglob('*') if path.is_dir() else [path]
    return sum(each.stat().st_size for each in paths if each.is_file())


def main() -> None:
    """Export the net on the command line."""
    cli.define_net_flag()
    flags.DEFINE_string('format', None, f'What to write: {", ".join(FORMATS)}.')
    flags.DEFINE_string('output', None, 'The file or folder to create.')
    flags.DEFINE_string(
        'onnxruntime_web',
        None,
        'For --format=web: the file written by npm pack, if not in this folder.',
    )
    flags.DEFINE_string(
        'license', None, 'For --format=torch: license of the weights, such as apache-2.0.'
    )
    _, *rest = cli.parse_flags(sys.argv)
    workdir, name, path = (flags.FLAGS[flag].value for flag in ('workdir', 'format', 'output'))
    if rest or not (workdir and name and path):
        raise BadInput(
            'usage: python -m alexnet_jax.export --workdir=RUN[@STEP] '
            f'--format={"|".join(FORMATS)} --output=PATH'
        )
    output = Path(path)
    if name not in FORMATS:
        raise BadInput(f'--format={name} is unknown; allowed: {", ".join(FORMATS)}')
    if '://' in path:
        raise BadInput(f'--output={path} is a URL; write to a local path and copy that')
    if flags.FLAGS.license is not None and name != 'torch':
        raise BadInput(f'--license is for --format=torch only, not --format={name}; leave it out')
    if flags.FLAGS.onnxruntime_web is not None and name != 'web':
        raise BadInput(f'--onnxruntime_web is for --format=web only, not --format={name}')
    if os.path.lexists(output):
        raise BadInput(f'--output={output} exists; remove it or choose another name')
    write = FORMATS[name]()
    hardware.share_gpu()
    net = TrainedNet.load(*parse_member(workdir), dtype='float32')
    with unwinding():
        export(net, write, output)
    size = net.config.image_size
    print(
        f'wrote {output}: {net.config.variant}, step {net.step:,}, {size_of(output) / 1e6:,.1f} MB'
    )
    if name == 'torch':
        print(f'  see      {output / "README.md"}, a model card with an example')
        return
    print(f'  takes    uint8 [N, {size}, {size}, 3], RGB, after {net.config.data.eval_ops}')
    print(f'  returns  probabilities and logits, float32 [N, {net.config.num_classes}]')
    print('  usage    docs/weights.md')


if __name__ == '__main__':
    run_command(main)
