"""Every published network, and tables of one's own: their sections and calculations."""

import jax
import numpy as np
import numpy_net
import pytest
from helpers import assert_has
from small_tours import CROP, SIZE, small_config, small_subject

from alexnet_jax.cli import load_recipe
from alexnet_jax.model.alexnet import dropout_masks
from alexnet_jax.model.layers import Conv, Dense, Dropout, Local, MaxPool, ReLU
from alexnet_jax.model.shapes import towers_of
from alexnet_jax.tour import activations, layer_table, subject
from alexnet_jax.tour.code_names import code_of
from alexnet_jax.tour.texts import Texts
from alexnet_jax.tour.units import units

TABLES = {
    'one conv': (Conv('conv1', 4, 5, stride=3), ReLU(), MaxPool(3, 2), Dense('fc2', 10)),
    'one local': (Local('local1', 4, 5, stride=3, pad=1), ReLU(), MaxPool(3, 2), Dense('fc2', 10)),
    'no conv': (Dropout(0.5), Dense('fc1', 6), ReLU(), Dense('fc2', 10)),
    'starts with ReLU': (ReLU(), Conv('conv1', 4, 5), Dense('fc2', 10)),
}


@pytest.fixture
def shown(photo):
    """shown(variant or key of TABLES) -> the Subject."""
    return lambda name: small_subject(photo, name, TABLES.get(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        pytest.param('source_2012', marks=pytest.mark.exhaustive),
        'alexnet_bn',
        pytest.param('torchvision', marks=pytest.mark.exhaustive),
        'cifar10_18pct',
        *TABLES,
    ],
)
def test_sections(name, shown):
    this = shown(name)
    truth = numpy_net.outputs(this.layers, this.variables, this.centered[0])
    sections = activations.sections(this)
    outputs = [output for section in sections for output in section.outputs]
    assert len(outputs) == len(truth)
    for found, wanted in zip(outputs, truth, strict=True):
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= 2e-5 * np.abs(wanted).max()
    place = 0
    for section in sections:
        assert code_of(type(section.info.layer).__name__).count(': ') == 1
        for unit in units(section, this):
            index = tuple(unit['index'])
            assert unit['result'] == pytest.approx(section.outputs[0][index])
            match unit['kind']:
                case 'conv' | 'dense':
                    value = unit['sum'] + unit['bias']
                case 'lrn' | 'within_channel_lrn':
                    value = unit['a'] / unit['power']
                case 'max_pool':
                    value = unit['max']
                case 'avg_pool':
                    value = unit['average']
                case 'standardized':
                    spread = np.sqrt(unit['variance'] + unit['epsilon'])
                    value = (unit['a'] - unit['mean']) / spread
                case 'plain':
                    value = max(0, unit['a']) if name == 'starts with ReLU' else unit['a']
            scale = np.abs(truth[place]).max()
            assert value == pytest.approx(truth[place][index], abs=2e-5 * scale)
        place += len(section.outputs)
    rows = layer_table.rows(sections, towers_of(this.layers))
    assert [row['name'] for row in rows] == [section.info.name for section in sections]


@pytest.mark.slow
def test_a_single_crop_that_has_an_axis_of_views(photo):
    config = small_config('paper')
    config.data.eval_ops = f'{CROP}crops({SIZE}, 1)'
    found = subject.from_recipe(photo, config)
    assert found.image.shape == (SIZE, SIZE, 3)
    assert found.eval_ops.endswith(f'|center_crop({SIZE})')


@pytest.mark.slow
def test_receptive_fields(shown):
    """By changing pixels: an output changes only if a pixel in its field does."""
    this = shown('one conv')
    *_, pool, _ = activations.sections(this)
    row, column = 3, 5
    top, left, bottom, right = activations.receptive_field(pool, row, column, SIZE)
    # By hand: pool1 sees rows 2 * 3 ... + 2 of conv1, which see pixels 3 * 6 ... 3 * 8 + 4.
    assert np.allclose([top * SIZE, bottom * SIZE], [18, 29])
    assert np.allclose([left * SIZE, right * SIZE], [30, 41])
    inside = np.zeros((SIZE, SIZE), bool)
    inside[18:29, 30:41] = True
    before = numpy_net.outputs(this.layers, this.variables, this.centered[0])[2]
    changed = this.centered[0] + np.where(inside, 0, 50)[..., None]
    after = numpy_net.outputs(this.layers, this.variables, changed)[2]
    assert (before[row, column] == after[row, column]).all()
    assert (before[row, column + 1] != after[row, column + 1]).any()


@pytest.mark.slow
def test_locally_connected_layers(photo):
    """Of the 13% net, by hand: local3 makes 6 x 6 x 32 values of 6 x 6 x 64, local4 of x 32."""
    config = load_recipe('cifar10_13pct')
    config.data.eval_ops = 'decode|resize_short(24)|center_crop(24)'
    sections = activations.sections(subject.from_recipe(photo, config))
    rows = {row['name']: row for row in layer_table.rows(sections, towers=1)}
    local3, local4 = rows['local3'], rows['local4']
    assert local3['parameter_formula'] == '6·6·3·3·64·32 + 6·6·32'
    assert local3['parameters'] == 36 * 9 * 64 * 32 + 36 * 32 == 664_704
    assert local3['multiply_add_formula'] == '(6·6·3·3·64·32)'
    assert local3['multiply_adds'] == 36 * 9 * 64 * 32 == 663_552
    assert local4['parameter_formula'] == '6·6·3·3·32·32 + 6·6·32'
    assert rows['conv2']['parameter_formula'] == '5·5·64·64 + 64'
    assert rows['conv2']['multiply_add_formula'] == '(12·12) · (5·5·64·64)'
    assert rows['fc10']['multiply_add_formula'] == '(1152·10)'
    text = Texts('en').definition(local3)
    assert text == '32 local filters 3×3×64, stride 1, pad 1, ReLU'
    assert_has(Texts('en').explain({'kind': 'Local', 'followers': []}), 'Locally connected')
    sees = {row['name']: row['sees'] for row in layer_table.rows(sections, towers=2)}
    assert (sees['local3'], sees['pool2']) == ('all', '')
    # conv1 and pool1 see 5 + 2 pixels from -2 on, at every 2nd; with conv2 and pool2 these are
    # 7 + 2 * (4 + 2) from -2 - 2 * 2 on, at every 4th; each local layer adds 4 on either side.
    fields = {section.info.name: section.field for section in sections}
    assert fields['pool2'] == (4, -6, 19)
    assert fields['local3'] == (4, -10, 27)
    assert fields['local4'] == (4, -14, 35)


@pytest.mark.slow
def test_masks_are_those_of_training(shown):
    """Where the training network's dropout puts zeros, and nowhere else."""
    this = shown('course')
    place = [type(layer) for layer in this.layers].index(Dropout)
    keys = jax.random.split(jax.random.key(3), 2)
    shape = this.infos[place].input
    table = this.layers[: place + 1]
    images = this.centered.repeat(2, 0)
    before = this.model.clone(layers=table[:-1]).apply(this.variables, images)
    after = this.model.clone(layers=table).apply(
        this.variables, images, train=True, dropout_keys=keys
    )
    found = np.asarray(dropout_masks(this.layers[place], keys, place, shape))
    np.testing.assert_array_equal(np.asarray(after) != 0, found & (np.asarray(before) != 0))
    assert 0.4 < found.mean() < 0.6
    assert (found[0] != found[1]).any()
