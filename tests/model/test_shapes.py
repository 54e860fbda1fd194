"""A layer in its place: names, parameters, work, and images that are too small."""

import pytest
from helpers import assert_has

from alexnet_jax.errors import BadInput
from alexnet_jax.model.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Local,
    MaxPool,
    ReLU,
    Tanh,
    WithinChannelLRN,
)
from alexnet_jax.model.shapes import (
    check_shapes,
    check_slices,
    layer_infos,
    parameter_names,
    product_flops,
)
from alexnet_jax.model.variants import COURSE, VARIANTS, build

SMALL = (
    Conv('first', 4, 3, groups=3), ReLU(), LRN(), MaxPool(2, 2), BatchNorm('bn'),
    Tanh(), WithinChannelLRN(), AvgPool(2, 2), ReLU(), Dense('last', 5),
)  # fmt: skip


def test_layers_without_a_name_are_numbered_by_prefix():
    assert [info.name for info in layer_infos(SMALL, 10)] == [
        'first', 'relu1', 'norm1', 'pool1', 'bn', 'tanh1', 'norm2', 'pool2', 'relu2', 'last',
    ]  # fmt: skip


def test_parameters_and_multiply_adds():
    """10 -> 8 -> 4 -> 2: 4 filters of 3 x 3 x 1 at 8 x 8 places, 5 features of 2 x 2 x 4 inputs."""
    found = {i.name: (i.kernel, i.parameters, i.multiply_adds) for i in layer_infos(SMALL, 10)}
    assert found.pop('first') == ((3, 3, 1, 4), 36 + 4, 64 * 36)
    assert found.pop('last') == ((16, 5), 80 + 5, 80)
    assert set(found.values()) == {(None, 0, 0)}


def test_local_filters_and_biases_are_not_shared():
    """4 -> 4 -> 2: 5 filters of 3 x 3 x 3 at 16 places, each with its bias, used once."""
    local, _, last = layer_infos((Local('local', 5, 3, pad=1), MaxPool(2, 2), Dense('last', 2)), 4)
    assert local.output == (4, 4, 5)
    assert (local.parameters, local.multiply_adds) == (16 * 5 * (27 + 1), 16 * 5 * 27)
    assert (last.parameters, last.multiply_adds) == (2 * (20 + 1), 2 * 20)


def test_flops_by_hand():
    """Training adds two gradients of each product, but the first layer's input needs none."""
    forward = {('first', False): 2 * 64 * 36, ('last', False): 2 * 80}
    gradients = {('first', True): 2 * 64 * 36, ('last', True): 2 * 2 * 80}
    assert product_flops(SMALL, 10, train=False) == forward
    assert product_flops(SMALL, 10, train=True) == forward | gradients


def test_flops_of_the_course_net():
    """conv1 is 55 * 55 * 96 products of 363 weights, and its images need no gradient."""
    forward = 2_270_512_192
    conv1 = 2 * 55 * 55 * 96 * 11 * 11 * 3
    assert conv1 == 210_830_400
    assert sum(product_flops(COURSE, 227, train=False).values()) == forward
    assert sum(product_flops(COURSE, 227, train=True).values()) == 3 * forward - conv1


def test_parameter_names():
    assert parameter_names(VARIANTS['cifar10_18pct']) == [
        'conv1/kernel', 'conv1/bias', 'conv2/kernel', 'conv2/bias',
        'conv3/kernel', 'conv3/bias', 'fc10/kernel', 'fc10/bias',
    ]  # fmt: skip
    assert parameter_names(SMALL) == ['first/kernel', 'first/bias', 'last/kernel', 'last/bias']


# 67 -> 15 -> 7 -> 7 -> 3 -> 3 -> 1 is the smallest image of COURSE; 63 leaves pool3 2x2, and 10
# does not hold one 11x11 window.
@pytest.mark.parametrize(('image_size', 'layer', 'size'), [(10, 'conv1', 10), (63, 'pool3', 2)])
def test_an_image_that_is_too_small(image_size, layer, size):
    with pytest.raises(BadInput) as error:
        check_shapes(COURSE, image_size)
    for part in (f'image_size={image_size}', f'{layer} is {size}x{size}', 'use larger images'):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ('variant', 'times', 'message'),
    [
        ('lenet5', 3, 'conv1 would have no filters left; leave out one of the edits'),  # of 6
        ('digits', 5, 'conv1 would have no filters left'),  # of 16
    ],
)
def test_no_filters_left(variant, times, message):
    """No size of image would help."""
    with pytest.raises(BadInput, match=message):
        check_shapes(build(variant, ('half_width',) * times, 10), 28)


def test_no_features_left():
    table = (Dense('fc1', 0), Dense('fc2', 10))
    with pytest.raises(BadInput, match='fc1 would have no features left'):
        check_shapes(table, 8)


def test_the_smallest_image():
    check_shapes(COURSE, 67)


def test_pools_that_only_fit_with_ceil_mode():
    check_shapes((MaxPool(3, 2, ceil_mode=True), AvgPool(3, 2, ceil_mode=True)), 4)
    with pytest.raises(BadInput, match='pool2 is 1x1'):
        check_shapes((MaxPool(3, 2), AvgPool(3, 2)), 4)


@pytest.mark.parametrize(
    'edits', [('half_width', 'no_tower_communication'), ('no_tower_communication', 'half_width')]
)
def test_towers_are_of_one_width(edits):
    """Half of LeNet-5's six maps are three, which two towers cannot share."""
    with pytest.raises(BadInput, match=r' 3 .* cannot be split evenly between 2 towers'):
        check_shapes(build('lenet5', edits, 10), 28)
    check_shapes(build('paper', edits, 1000), 227)


# Slices of kernels


@pytest.mark.parametrize('devices', [1, 2, 4, 8, 256, 1024])
def test_the_course_net_lies_in_slices_on_powers_of_two(devices):
    check_slices(COURSE, 227, devices)


def test_slices_that_do_not_divide():
    """fc6 has 9,216 inputs, which 6 divides; fc7 and fc8 have 4,096. Classes may be any number."""
    with pytest.raises(BadInput) as error:
        check_slices(COURSE, 227, 6)
    assert_has(str(error.value), '4096 inputs of fc7', '6 devices', 'use 4 or 8, or', '=data')
    with pytest.raises(BadInput) as error:
        check_slices(COURSE, 227, 2048)  # 1,024 is the most
    assert_has(str(error.value), '9216 inputs of fc6', 'use 1024, or')


def test_slices_of_towers():
    """A feature sees the inputs of its tower: half of 4 x 4 x 3, and half of 12."""
    layers = (Dense('fc1', 12, groups=2), Dense('fc2', 7, groups=2))
    check_slices(layers, 4, 2)
    with pytest.raises(BadInput, match='24 inputs of fc1 do not divide evenly over 5'):
        check_slices(layers, 4, 5)
    with pytest.raises(
        BadInput, match='6 inputs of fc2 do not divide evenly over 4 devices; use 3 or 6'
    ):
        check_slices(layers, 4, 4)
