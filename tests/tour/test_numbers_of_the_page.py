"""The numbers that stand in the page, against the network in NumPy."""

import base64
import dataclasses
import gzip
import itertools
import re

import numpy as np
import numpy_net
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from small_tours import SIZE, draw_picture, small_subject
from torch.nn import functional

from alexnet_jax.data.statistics import Statistics
from alexnet_jax.model.layers import LRN, Activation, Conv, Dense, Dropout, MaxPool
from alexnet_jax.model.shapes import layer_names
from alexnet_jax.tour import facts

pytestmark = pytest.mark.slow
NAMES = ('course', 'paper', 'digits', pytest.param('course at 227', marks=pytest.mark.exhaustive))


@pytest.fixture(params=NAMES, scope='module')
def tour(request, tours):
    return tours(request.param)


@pytest.fixture(scope='module')
def truth(tour):
    """What each layer puts out, by its name; 'input' too."""
    shown = tour.subject
    found = numpy_net.outputs(shown.layers, shown.variables, shown.centered[0])
    return {
        'input': shown.centered[0].astype(float),
        **dict(zip(layer_names(shown.layers), found, strict=True)),
    }


def groups(tour):
    """(facts of a section, its layer, the name before it, its name, the names of its followers)."""
    names, layers = layer_names(tour.subject.layers), tour.subject.layers
    before, found = 'input', {}
    for name, layer in zip(names, layers, strict=True):
        if isinstance(layer, Activation | Dropout):
            found[list(found)[-1]][-1].append(name)
        else:
            found[name] = [layer, before, name, []]
        before = name
    return [(section, *found[section['name']]) for section in tour.facts['sections']]


def test_every_output(tour, truth):
    """What a section says about its values, among them the results of its calculations."""
    scale = {name: np.abs(values).max() for name, values in truth.items()}
    for section, _, before, name, followers in groups(tour):
        last = [name, *followers][-1]
        for key, of in (('before', before), ('after', last)):
            for end, value in (('low', truth[of].min()), ('high', truth[of].max())):
                assert section[key][end] == pytest.approx(value, abs=1e-5 * scale[of])
            assert section[key]['mean'] == pytest.approx(truth[of].mean(), abs=1e-5 * scale[of])
            assert sum(section[key]['counts']) == truth[of].size
        for unit in section['units']:
            index = tuple(unit['index'])
            values = [unit['result'], *unit['after']]
            for of, value in zip([name, *followers], values, strict=True):
                assert value == pytest.approx(truth[of][index], abs=1e-5 * scale[of])


def test_sums_of_products(tour, truth):
    checked = 0
    for section, layer, before, name, _ in groups(tour):
        if not isinstance(layer, Conv | Dense):
            continue
        params = tour.subject.params[layer.name]
        for unit in section['units']:
            place = unit['index'][-1]
            kernel = params['kernel'][..., place]
            x = inputs_of(layer, truth[before], unit['index'])
            assert x.shape == kernel.shape
            assert unit['count'] == x.size
            scale = np.abs(truth[before]).max()
            first = [i for i in np.ndindex(x.shape) if abs(x[i]) > 1e-7 * scale][:4]
            for index, term in zip(first, unit['terms'], strict=True):
                assert tuple(term['place']) == index
                assert term['x'] == pytest.approx(x[index], abs=1e-5 * scale)
                assert term['w'] == pytest.approx(kernel[index], rel=1e-6)
            total = (x * kernel).sum()
            limit = 1e-5 * np.abs(x * kernel).sum()
            assert unit['sum'] == pytest.approx(total, abs=limit)
            assert unit['bias'] == pytest.approx(params['bias'][place], rel=1e-6)
            assert unit['sum'] + unit['bias'] == pytest.approx(
                truth[name][*unit['index']], abs=limit
            )
            for part in unit.get('slices', []):
                seen = part['channel'] - place * layer.groups // layer.filters * x.shape[-1]
                assert_allclose(part['x'], x[..., seen], atol=1e-5 * scale)
                assert_allclose(part['w'], kernel[..., seen], rtol=1e-6)
                assert part['sum'] == pytest.approx((x * kernel)[..., seen].sum(), abs=limit)
            checked += 1
    assert checked > 20


def inputs_of(layer, x, index):
    """What a filter or a neuron sees, by the definition of the layer."""
    if isinstance(layer, Dense):
        return x.ravel()
    row, column, channel = index
    low, high = layer.pads
    padded = np.zeros((x.shape[0] + low + high, x.shape[1] + low + high, x.shape[2]))
    padded[low : low + x.shape[0], low : low + x.shape[1]] = x
    each = x.shape[2] // layer.groups
    first = 0 if layer.groups == 1 or channel < layer.filters // 2 else each
    top, left = row * layer.stride, column * layer.stride
    return padded[top : top + layer.window, left : left + layer.window, first : first + each]


def test_response_norms(tour, truth):
    for section, layer, before, name, _ in groups(tour):
        if not isinstance(layer, LRN):
            continue
        for unit in section['units']:
            row, column, channel = unit['index']
            a, b = truth[before][row, column], truth[name][row, column]
            half = len(a) // layer.groups
            tower = range(half) if channel < half else range(half, len(a))
            near = [i for i in range(channel - 2, channel + 3) if i in tower]
            assert unit['near'] == near
            assert_allclose(unit['values'], a[near], rtol=1e-4, atol=1e-4)
            assert_allclose(unit['b'], b[near], rtol=1e-4, atol=1e-4)
            squares = sum(a[i] ** 2 for i in near)
            assert unit['squares'] == pytest.approx(squares, rel=1e-4)
            assert unit['scale'] == pytest.approx(2 + 1e-4 * squares, rel=1e-5)
            assert unit['power'] == pytest.approx((2 + 1e-4 * squares) ** 0.75, rel=1e-5)
            assert unit['a'] / unit['power'] == pytest.approx(b[channel], rel=1e-4)


def test_pools(tour, truth):
    for section, layer, before, _, _ in groups(tour):
        if not isinstance(layer, MaxPool):
            continue
        for unit in section['units']:
            row, column, channel = unit['index']
            window = truth[before][2 * row : 2 * row + 3, 2 * column : 2 * column + 3, channel]
            assert_allclose(unit['values'], window, rtol=1e-4, atol=1e-4)
            assert unit['max'] == unit['result'] == pytest.approx(window.max(), rel=1e-4)
            assert unit['values'][unit['at'][0]][unit['at'][1]] == unit['max']
            assert unit['average'] == pytest.approx(window.sum() / 9, rel=1e-4)
            height, width, _ = truth[section['name']].shape
            assert unit['shared'] == [int(row + 1 < height), int(column + 1 < width)]


def test_softmax(tour, truth):
    scores = truth[tour.subject.layers[-1].name]
    probabilities = np.exp(scores) / np.exp(scores).sum()
    found = tour.facts['softmax']
    best = np.argsort(-scores)[:5]
    assert [c['label'] for c in found['top']] == best.tolist()
    assert_allclose([c['score'] for c in found['top']], scores[best], rtol=1e-4, atol=1e-5)
    assert_allclose([c['probability'] for c in found['top']], probabilities[best], rtol=2e-4)
    assert_allclose(
        [c['power'] / found['sum'] for c in found['top']], probabilities[best], rtol=2e-4
    )
    assert found['classes'] == len(scores)
    test = tour.facts['dropout']['test']
    assert_allclose([c['probability'] for c in test], probabilities[best], rtol=2e-4)


def test_the_table(tour):
    table = tour.facts['table']
    assert sum(row['parameters'] for row in table) == sum(
        leaf.size for layer in tour.subject.params.values() for leaf in layer.values()
    )
    text = re.sub(r'<[^>]+>', ' ', tour.html)
    for row in table:
        assert f'{row["formula"]}' in text
    assert tour.facts['parameters'] == sum(row['parameters'] for row in table)


def test_maps(tour, truth):
    """The maps that the script draws, to within their 8 bits; the strongest come first."""
    packed = re.search(r'<script type="text/plain" id="maps">(.*?)</script>', tour.html)[1]
    content = np.frombuffer(gzip.decompress(base64.b64decode(packed)), np.uint8)
    drawing = tour.facts['drawing']['maps']
    for _, _, _, name, followers in groups(tour):
        values = truth[[name, *followers][-1]]
        values = values if values.ndim == 3 else values.reshape(1, -1, 1)
        found = drawing[name]
        channels, height, width = found['shape']
        assert (height, width, channels) == values.shape
        maps = content[found['start'] :][: values.size].reshape(found['shape'])
        low, high = np.moveaxis(np.array(found['limits'])[:, :, None, None], 1, 0)
        shown = low + maps / 255 * np.where(high > low, high - low, 1)
        wanted = values.transpose(2, 0, 1)
        assert (np.abs(shown - wanted) <= (high - low) / 500 + 1e-4).all()
        for order in found['order']:
            strength = np.abs(values).mean((0, 1))[order]
            assert (np.diff(strength) <= 1e-5 * strength.max()).all()
        assert sorted(itertools.chain(*found['order'])) == list(range(channels))
    assert len(content) == sum(np.prod(found['shape']) for found in drawing.values())


@pytest.mark.parametrize(
    ('name', 'before', 'size', 'mirrors', 'inputs'),
    [
        pytest.param('course at 227', 256, 227, True, 30 * 30 * 2, marks=pytest.mark.exhaustive),
        ('course', 72, 67, True, 6 * 6 * 2),
        ('digits', 36, 28, False, 9 * 9),
    ],
)
def test_augmentation(tours, name, before, size, mirrors, inputs):
    found = tours(name).facts['augmentation']
    assert (found['own'], found['own_colors'], found['mirrors']) == (True, True, mirrors)
    assert (found['size'], found['rows'], found['columns']) == (size, *[before - size + 1] * 2)
    assert found['inputs'] == inputs
    assert len(found['crops']) == 12
    assert all(0 <= place <= before - size for crop in found['crops'] for place in crop[:2])
    assert re.search(
        rf'{found["rows"]} × {found["columns"]}.*?<mark>(.*?)</mark>', tours(name).html
    )


@pytest.mark.parametrize(
    ('ops', 'own', 'sigma'),
    [
        (f'decode|resize({SIZE})|random_affine(5, 0, 0, 0)|pca_shift(0.3)', False, 0.3),
        (f'decode|resize({SIZE})', False, None),
        (f'decode|resize({SIZE})|random_affine(5, 0, 0, 0)|random_mirror', False, None),
        (f'decode|resize(72)|random_crop({SIZE})', True, None),
    ],
)
def test_crops_and_colors_are_each_the_run_s_or_the_paper_s(photo, ops, own, sigma):
    this = small_subject(photo, 'course')
    this.config.data.train_ops = ops
    found = facts._augmentation(this)
    this.config.data.train_ops = 'decode'
    paper = facts._augmentation(this)
    assert (found['own'], found['own_colors']) == (own, sigma is not None)
    assert found['own_mirrors'] == ('random_mirror' in ops)
    assert found['size'] == (SIZE if own else 227)
    assert_allclose(found['shifts'], np.multiply(paper['shifts'], (sigma or 0.1) / 0.1), rtol=1e-5)


@pytest.mark.parametrize(('width', 'own'), [(1024, True), (16_400, False)])
def test_crops_of_a_picture_too_large_for_the_page_are_the_paper_s(tmp_path, width, own):
    """WebP allows sides of up to 16,383 pixels."""
    Image.fromarray(draw_picture(24, width)).save(tmp_path / 'wide.png')
    this = small_subject(str(tmp_path / 'wide.png'), 'course')
    this.config.data.train_ops = 'decode|random_crop(24)|random_mirror'
    found = facts._augmentation(this)
    assert found['own'] == own
    assert found['original'].shape == ((24, width, 3) if own else (256, 256, 3))


def test_colors_of_converted_weights_are_the_picture_s(photo):
    """Their file of statistics has a mean image only."""
    this = small_subject(photo, 'course')
    expected = facts._augmentation(dataclasses.replace(this, statistics=None))
    known = Statistics(np.zeros((SIZE, SIZE, 3), np.float32), np.zeros(3), np.eye(3), 'elsewhere')
    found = facts._augmentation(dataclasses.replace(this, statistics=known))
    assert not found['from_run']
    assert np.abs(found['shifts']).max() > 1
    assert_allclose(found['shifts'], expected['shifts'])


@pytest.mark.exhaustive
def test_the_page_of_the_course_net_is_small(tours):
    assert len(tours('course at 227').html.encode()) < 5e6


def test_towers(tours):
    """Two in the paper's net, one in the others; the class scores are in neither."""
    paper = tours('paper').facts
    assert paper['towers'] == 2
    conv2, fc8 = paper['table'][3], paper['table'][-1]
    assert (conv2['name'], conv2['outputs'], conv2['sees']) == ('conv2', ['7×7×64'] * 2, 'own')
    assert (fc8['name'], fc8['outputs'], fc8['sees']) == ('fc8', ['10'], 'all')
    assert [row['name'] for row in paper['table'] if row['sees'] == 'all'] == [
        *('conv3', 'fc6', 'fc7', 'fc8')
    ]
    first, second = paper['drawing']['maps']['conv2']['order']
    assert sorted(first) == list(range(64))
    assert sorted(second) == list(range(64, 128))
    assert {tours(name).facts['towers'] for name in ('course', 'digits')} == {1}


def test_gradients_against_torch(tours):
    """The digits' net in PyTorch, in float64, with each function in place of ReLU."""
    tour = tours('digits')
    functions = {
        'ReLU': functional.relu,
        'sigmoid': torch.sigmoid,
        'tanh': torch.tanh,
        'leaky ReLU': lambda x: functional.leaky_relu(x, 0.01),
        'ELU': functional.elu,
    }
    label = tour.facts['softmax']['top'][0]['label']
    assert list(tour.facts['gradients']) == list(functions)
    for name, function in functions.items():
        kept = {}
        x = torch.tensor(tour.subject.centered.transpose(0, 3, 1, 2), dtype=torch.float64)
        for layer in tour.subject.layers:
            x = in_torch(layer, tour.subject.params, x, function, kept)
        x[0, label].backward()
        found = tour.facts['gradients'][name]
        assert list(found) == ['fc8', 'fc7', 'fc6', 'conv5', 'conv4', 'conv3', 'conv2', 'conv1']
        for layer, norm in found.items():
            assert norm == pytest.approx(float(kept[layer].grad.norm()), rel=1e-3), (name, layer)


def in_torch(layer, params, x, function, kept):
    match layer:
        case Conv():
            kernel = torch.tensor(params[layer.name]['kernel'].transpose(3, 2, 0, 1).astype(float))
            bias = torch.tensor(params[layer.name]['bias'].astype(float))
            x = functional.conv2d(x, kernel, bias, layer.stride, layer.pad)
        case Dense():
            kernel = torch.tensor(params[layer.name]['kernel'].T.astype(float))
            x = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
            x = functional.linear(
                x.reshape(1, -1), kernel, torch.tensor(params[layer.name]['bias'].astype(float))
            )
        case LRN():
            return functional.local_response_norm(x, 5, 5e-4, 0.75, 2)  # which divides alpha by 5
        case MaxPool():
            return functional.max_pool2d(x, 3, 2)
        case Dropout():
            return x
        case _:
            return function(x)
    kept[layer.name] = x.requires_grad_() if x.is_leaf else x
    x.retain_grad()
    return x
