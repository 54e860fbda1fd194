"""What `export` wrote comes back: parameters, batch statistics, mean and classes bit for bit."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from foreign_files import lively_tensors, narrowed
from helpers import assert_has
from trained_runs import save_run

from alexnet_jax import convert
from alexnet_jax.data import statistics
from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model import variants
from alexnet_jax.run import workdir
from alexnet_jax.weights import identify, layout, metadata, onnx_out, reading, tensors


def own_run(folder: Path, variant: str) -> str:
    """A run with random weights, batch statistics and mean image, as training leaves it."""
    config = identify.RECIPES[variant].get_config()
    config.num_classes, config.epochs = 12, 0.5  # two classes more than there are names
    table = variants.build(variant, (), 12)
    variables = layout.from_torch(
        table, config.image_size, lively_tensors(table, config.image_size)
    )
    names = [f'class {i}' for i in range(10)]
    save_run(folder, config, names, {5: (variables, 0.5), 10: (variables, 0.25)})
    if config.data.mean == 'image':
        size = config.image_size + 3
        mean = np.random.default_rng(3).uniform(0, 255, (size, size, 3)).astype(np.float32)
        found = statistics.Statistics(mean, np.ones(3), np.eye(3), 'here')
        statistics.save(epath.Path(folder) / 'statistics.npz', found)
    return str(folder)


def as_onnx(net: TrainedNet, folder: Path) -> Path:
    onnx_out.write(net, folder / 'net.onnx')
    return folder / 'net.onnx'


def as_safetensors(net: TrainedNet, folder: Path) -> Path:
    """As `export --format=torch` writes it."""
    config = net.config
    found = layout.to_torch(net.model.layers, config.image_size, jax.device_get(net.variables))
    if config.variant == 'torchvision':
        theirs = {ours: theirs for theirs, ours in layout.torchvision_names().items()}
        found = {theirs[name]: tensor for name, tensor in found.items()}
    elif config.data.mean == 'image':
        found = {'mean': net.mean.transpose(2, 0, 1), **found}
    texts = {key: json.dumps(value) for key, value in metadata.describe(net).items()}
    tensors.write(folder / 'model.safetensors', found, {'format': 'pt', **texts})
    return folder


@pytest.mark.parametrize('export', [as_onnx, as_safetensors])
@pytest.mark.slow
@pytest.mark.parametrize('variant', ['digits', 'torchvision', 'alexnet_bn'])
def test_bit_for_bit(variant, export, tmp_path, monkeypatch):
    table = narrowed(variants.VARIANTS[variant], hidden=16)
    monkeypatch.setitem(variants.VARIANTS, variant, table)
    before = TrainedNet.load(own_run(tmp_path / 'trained', variant))
    (tmp_path / 'exported').mkdir()
    run = str(tmp_path / 'back')
    convert.convert(reading.read(export(before, tmp_path / 'exported')), run)
    after = TrainedNet.load(run)
    assert (before.step, after.step) == (5, 0)
    assert after.config.to_dict() == before.config.to_dict()
    assert after.class_names == before.class_names
    np.testing.assert_array_equal(after.mean, before.mean)
    jax.tree.map(np.testing.assert_array_equal, after.variables, before.variables)
    assert bool(after.variables['batch_stats']) == (variant == 'alexnet_bn')
    source = workdir.read_source(run) or {}
    assert source['source'] == {'run': 'trained', 'step': 5}
    assert source['scores']['top1'] == 0.5


@pytest.fixture(scope='module')
def digits_export(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('digits')
    net = TrainedNet.load(own_run(folder / 'trained', 'digits'))
    return as_safetensors(net, folder) / 'model.safetensors'


def test_another_variant_than_the_export_says(digits_export):
    with pytest.raises(BadInput, match=r'it is digits.*--variant=course'):
        convert.read_network(reading.read(digits_export), 'course')


@pytest.mark.parametrize(
    ('change', 'part'),
    [
        ({'config': '[]'}, 'config'),
        ({'config': '{"seed": 1}'}, 'missing key accum_steps'),
        ({'config': '{'}, 'damaged'),
        ({'class_names': '3'}, 'class_names'),
        ({'class_names': json.dumps(['x'] * 13)}, '13 classes'),
    ],
)
def test_damaged_metadata(change, part, digits_export, tmp_path):
    found, texts = tensors.read(digits_export)
    tensors.write(tmp_path / 'x', found, texts | change)
    with pytest.raises(BadInput) as error:
        convert.convert(reading.read(tmp_path / 'x'), str(tmp_path / 'run'))
    assert_has(str(error.value), str(tmp_path / 'x'), part)
    assert not (tmp_path / 'run').exists()
