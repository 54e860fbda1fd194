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
from alexnet_jax.cli import load_recipe
from alexnet_jax.data import statistics
from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model import variants
from alexnet_jax.run import workdir
from alexnet_jax.weights import identify, layout, onnx_out, reading, tensors, torch_out


def own_run(folder: Path, variant: str) -> str:
    """A run with random weights, batch statistics and mean image, as training leaves it."""
    config = load_recipe(identify.RECIPES[variant])
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


def as_torch(net: TrainedNet, folder: Path) -> Path:
    torch_out.write(net, folder / 'hub')
    return folder / 'hub'


@pytest.mark.slow
@pytest.mark.parametrize('export', [as_onnx, as_torch])
@pytest.mark.parametrize('variant', ['digits', 'torchvision', 'alexnet_bn'])
def test_bit_for_bit(variant, export, tmp_path, monkeypatch):
    table = narrowed(variants.VARIANTS[variant], hidden=16)
    monkeypatch.setitem(variants.VARIANTS, variant, table)
    if variant == 'torchvision':  # whose names the export gives to what has its table
        monkeypatch.setattr(torch_out, 'TORCHVISION', table)
    before = TrainedNet.load(own_run(tmp_path / 'trained', variant))
    (tmp_path / 'exported').mkdir()
    file, run = reading.read(export(before, tmp_path / 'exported')), str(tmp_path / 'back')
    renamed = variant == 'torchvision' and export is as_torch
    assert ('features.0.weight' in file.contents.tensors) == renamed
    convert.convert(file, run)
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
    return as_torch(net, folder) / 'model.safetensors'


def test_an_export_that_pytorch_has_trained_further(tmp_path, monkeypatch):
    """Its batch norm counts the batches, and the script has kept the metadata."""
    table = narrowed(variants.VARIANTS['alexnet_bn'], hidden=2)
    monkeypatch.setitem(variants.VARIANTS, 'alexnet_bn', table)
    config = load_recipe(identify.RECIPES['alexnet_bn'])
    found = lively_tensors(table, config.image_size)
    texts = {'config': config.to_json(), 'class_names': '[]'}
    counter = {'bn1.num_batches_tracked': np.array(7)}
    tensors.write(tmp_path / 'x', found, texts)
    tensors.write(tmp_path / 'y', found | counter, texts)
    _, before = convert.read_network(reading.read(tmp_path / 'x'), None)
    _, after = convert.read_network(reading.read(tmp_path / 'y'), None)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_another_variant_than_the_export_says(digits_export):
    with pytest.raises(BadInput, match=r'names digits.*--variant=course'):
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


def test_a_header_whose_length_begins_like_a_pickle(digits_export, tmp_path):
    found, _ = tensors.read(digits_export)
    for padding in range(0, 256, 8):  # headers are padded to 8 bytes
        tensors.write(tmp_path / 'x', found, {'note': 'x' * padding})
        if (tmp_path / 'x').read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail('no header of such a length was written')
    assert reading.read(tmp_path / 'x').contents.format.startswith('safetensors')
