"""Which network a file is: by shapes, by the order of the layers, by their settings."""

import dataclasses

import numpy as np
import pytest
from foreign_files import caffe_net, lively_tensors, narrowed, save

from alexnet_jax.cli import load_recipe
from alexnet_jax.errors import BadInput
from alexnet_jax.model import variants
from alexnet_jax.model.layers import LRN, BatchNorm, Conv, Dense, MaxPool, ReLU
from alexnet_jax.weights import identify, layout, reading
from alexnet_jax.weights.contents import Contents

# Of all tables, with two hidden features each: shapes tell the same apart as at full size.
SMALL = {name: narrowed(table, hidden=2) for name, table in variants.VARIANTS.items()}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, table in SMALL.items():
        monkeypatch.setitem(variants.VARIANTS, name, table)


def state_dict(variant: str, classes: int | None = None) -> dict[str, np.ndarray]:
    """Tensors of a variant by the table's names, of zeros that take no memory."""
    config = load_recipe(identify.RECIPES[variant])
    table = variants.build(variant, (), classes or config.num_classes)
    shapes = layout.tensor_shapes(table, config.image_size)
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def refusal(tensors: dict[str, np.ndarray], variant: str | None = None) -> str:
    with pytest.raises(BadInput) as error:
        identify.identify(Contents('x', tensors), variant)
    return str(error.value)


def test_every_variant_has_a_recipe():
    assert identify.RECIPES.keys() == variants.VARIANTS.keys()
    for name, recipe in identify.RECIPES.items():
        assert load_recipe(recipe).variant == name


TOWERS = ('paper', 'source_2012', 'bvlc', 'caffenet')  # whose weights have the same shapes


@pytest.mark.parametrize('variant', SMALL)
def test_by_shapes(variant):
    found = identify.identify(Contents('x', state_dict(variant)), variant)
    assert found.config.to_dict() == load_recipe(identify.RECIPES[variant]).to_dict()
    if variant not in TOWERS:
        alone = identify.identify(Contents('x', state_dict(variant)), None)
        assert alone.config.variant == variant


def test_ambiguous():
    message = refusal(state_dict('bvlc'))
    for part in (*TOWERS, '--variant='):
        assert part in message


def test_not_a_name_in_common():
    message = refusal({'layers.0.w': np.zeros(3), 'layers.0.b': np.zeros(3)})
    for part in ('layers.0.w, layers.0.b', 'features.0.weight', 'conv1.weight'):
        assert part in message
    assert 'nearest' not in message


def test_the_head_may_have_any_size():
    found = identify.identify(Contents('x', state_dict('digits', classes=7)), None)
    assert found.config.num_classes == 7


def test_batch_norm_of_pytorch_counts_its_batches():
    counters = {
        f'{layer.name}.num_batches_tracked': np.array(7)
        for layer in SMALL['alexnet_bn']
        if isinstance(layer, BatchNorm)
    }
    found = identify.identify(Contents('x', state_dict('alexnet_bn') | counters), None)
    assert found.config.variant == 'alexnet_bn'


def test_torchvision_s_names():
    theirs = {v: k for k, v in layout.torchvision_names().items()}
    tensors = {theirs[name]: tensor for name, tensor in state_dict('torchvision').items()}
    found = identify.identify(Contents('x', tensors), None)
    assert found.config.variant == 'torchvision'
    assert list(found.tensors) == list(state_dict('torchvision'))
    del tensors['classifier.4.bias']
    assert 'nearest is torchvision' in refusal(tensors)
    assert 'fc7.bias (classifier.4.bias) is missing' in refusal(tensors)


@pytest.mark.parametrize(
    ('change', 'parts'),
    [
        (
            {'conv2.weight': np.zeros((48, 24, 3, 3))},
            ('digits', 'conv2.weight is 48x24x3x3', '5x5'),
        ),
        ({'fc7.bias': None}, ('digits', 'fc7.bias is missing', 'conv1.weight')),
        ({'norm.weight': np.zeros(3)}, ('digits', 'norm.weight')),
    ],
)
def test_the_first_difference_from_the_nearest(change, parts):
    tensors = {k: v for k, v in (state_dict('digits') | change).items() if v is not None}
    message = refusal(tensors)
    for part in parts:
        assert part in message


def test_wrong_variant():
    message = refusal(state_dict('digits'), 'course')
    for part in ('digits', '--variant=course', 'conv1.weight is 24x3x5x5, not 96x3x11x11'):
        assert part in message
    message = refusal(state_dict('digits'), 'vgg')
    for part in ('--variant=vgg', 'bvlc', 'torchvision'):
        assert part in message


# Files that list their layers


def of_caffe(tmp_path, table, variant: str | None = None, tensors=None) -> identify.Identified:
    tensors = tensors or lively_tensors(table, 227)
    path = save(tmp_path / 'net.caffemodel', caffe_net(table, 227, tensors, v1=True))
    return identify.identify(reading.read(path).contents, variant)


@pytest.mark.parametrize('variant', ['bvlc', 'caffenet'])
def test_by_the_order_of_norm_and_pool(tmp_path, variant):
    assert of_caffe(tmp_path, SMALL[variant]).config.variant == variant
    (other,) = {'bvlc', 'caffenet'} - {variant}
    with pytest.raises(BadInput, match=f'it is {variant}, not --variant={other}: layer 3'):
        of_caffe(tmp_path, SMALL[variant], other)
    with pytest.raises(BadInput, match=f'it is {variant}, not --variant=paper'):
        of_caffe(tmp_path, SMALL[variant], 'paper')


def test_layers_with_other_names(tmp_path):
    """As in a fine-tuned net, whose head has another name and size."""
    table = tuple(
        dataclasses.replace(layer, name='fc8_flickr', features=20)
        if isinstance(layer, Dense) and layer.name == 'fc8'
        else layer
        for layer in SMALL['bvlc']
    )
    found = of_caffe(tmp_path, table)
    assert (found.config.variant, found.config.num_classes) == ('bvlc', 20)
    assert list(found.tensors)[-2:] == ['fc8.weight', 'fc8.bias']


def changed(kind: type, **values) -> tuple:
    """BVLC's table with other settings of the first layer of a kind."""
    table = list(SMALL['bvlc'])
    place = next(i for i, layer in enumerate(table) if isinstance(layer, kind))
    table[place] = dataclasses.replace(table[place], **values)
    return tuple(table)


@pytest.mark.parametrize(
    ('table', 'difference'),
    [
        (changed(LRN, alpha=1e-4), r"'norm1', is LRN with alpha 0.0001, not 2e-05"),
        (changed(LRN, k=2), 'k 2, not 1'),
        (changed(MaxPool, window=2), "'pool1', is MaxPool with window 2, not 3"),
        (changed(Conv, stride=2), "'conv1', is Conv with stride 2, not 4"),
        (
            tuple(x for x in SMALL['bvlc'] if not isinstance(x, ReLU)),
            'LRN, but caffenet has ReLU',
        ),
    ],
)
def test_other_settings(tmp_path, table, difference):
    shapes = lively_tensors(SMALL['bvlc'], 227)
    with pytest.raises(BadInput, match=difference):
        of_caffe(tmp_path, table, tensors=shapes)


def test_a_missing_layer_is_named(tmp_path):
    table = tuple(x for x in SMALL['bvlc'] if getattr(x, 'name', '') != 'fc7')
    with pytest.raises(BadInput, match=r'fc7\.weight is missing'):
        of_caffe(tmp_path, table)
