"""A trained net as one HTML page that classifies images in the browser, without a server.

The page contains the net as ONNX and onnxruntime-web, gzipped, in base64. Its script applies the
run's eval ops as TensorFlow does, to the pixels that the browser decodes.
"""

import base64
import dataclasses
import gzip
import json
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from alexnet_jax.errors import BadInput, one_line
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model.shapes import layer_infos
from alexnet_jax.weights import onnx_out
from alexnet_jax.weights.metadata import describe, run_name

TEMPLATE = Path(__file__).with_name('web.html')
PACKAGE = 'onnxruntime-web-1.30.0.tgz'  # what `npm pack onnxruntime-web@1.30.0` downloads
CODE, WASM = 'ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm'

# The ops that the page's script supports, with the arguments that it uses.
OPS: dict[str, set[str]] = {
    'resize': {'height', 'width', 'antialias'},
    'resize_short': {'size', 'antialias'},
    'center_crop': {'size'},
    'torchvision': {'resize', 'crop'},
}


class Runtime(NamedTuple):
    """onnxruntime-web: its version, its script, and the WebAssembly that the script loads."""

    version: str
    code: bytes
    wasm: bytes


def read_runtime(path: Path) -> Runtime:
    """Read what `npm pack onnxruntime-web` has downloaded.

    Raises:
      BadInput: It is missing or not that package.
    """
    command = f'npm pack {PACKAGE.removesuffix(".tgz").replace("web-", "web@")}'
    if not path.is_file():
        raise BadInput(
            f'--format=web needs {path}, which does not exist: run {command}, or pass the file '
            f'with --onnxruntime_web'
        )
    try:
        with tarfile.open(path) as archive:

            def content(name: str) -> bytes:
                file = archive.extractfile(f'package/{name}')
                assert file, name
                return file.read()

            version = json.loads(content('package.json'))['version']
            return Runtime(str(version), content(f'dist/{CODE}'), content(f'dist/{WASM}'))
    except Exception as error:  # of many types, from tarfile, zlib and json
        raise BadInput(
            f'{path} is not onnxruntime-web ({one_line(error)}): run {command}'
        ) from error


def steps(eval_ops: str) -> list[dict[str, Any]]:
    """Return the ops after decode with their arguments, for the page's script.

    Raises:
      BadInput: The script cannot apply an op; the message names the first.
    """
    from alexnet_jax.data.ops.chain import parse  # imports TensorFlow, which takes seconds

    found = []
    for op in parse(eval_ops).ops[1:]:
        values = dataclasses.asdict(op)
        if not values.keys() <= OPS.get(op.name, set()):
            raise BadInput(
                f'data.eval_ops={eval_ops!r}: a page cannot apply {op.name}; it can apply '
                f'{", ".join(OPS)}'
            )
        found.append({'op': op.name, **values})
    return found


def write(net: TrainedNet, path: Path, runtime: Runtime) -> None:
    """Write a net, loaded in float32, as a page.

    Raises:
      BadInput: The page cannot apply the run's eval ops.
    """
    about = describe(net)
    page = {
        'size': net.config.image_size,
        'classes': net.display_names,
        'steps': steps(net.config.data.eval_ops),
    }
    packed = {'runtime': runtime.code, 'wasm': runtime.wasm, 'model': onnx_out.to_bytes(net)}
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    ).from_string(TEMPLATE.read_text(encoding='utf-8'))
    html = template.render(
        title=f'{net.config.variant}: {about["source"].get("run") or run_name(net)}',
        rows=_rows(net, about),
        version=runtime.version,
        page=page,
        stored='stored' in net.config.data.eval_ops.split('|')[0],
        packed={name: _pack(content) for name, content in packed.items()},
    )
    path.write_text(html, encoding='utf-8', errors='replace')


def _pack(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def _listed(source: dict[str, Any]) -> str:
    """What is known of the weights; of a converted export, not what it knew of its own source."""
    return ', '.join(f'{key} {value}' for key, value in source.items() if type(value) is not dict)


def _rows(net: TrainedNet, about: dict[str, Any]) -> list[tuple[str, str]]:
    """The page's rows about the net."""
    config, scores = net.config, about['scores']
    parameters = sum(i.parameters for i in layer_infos(net.model.layers, config.image_size))
    rows = [
        ('Network', ', '.join([config.variant, *config.edits])),
        ('Parameters', f'{parameters:,}'),
        ('Weights', _listed(about['source'])),
        ('Classes', f'{len(net.class_names):,}'),
        ('Preprocessing', config.data.eval_ops),
    ]
    if scores:
        data = about['config']['data']  # without the folders of this machine
        split = f'{data["name"]}, {data["eval_split"]}'
        figures = f'{scores["top1"]:.2%} top-1, {scores["top5"]:.2%} top-5 ({split})'
        rows.append(('Accuracy', figures))
    return rows
