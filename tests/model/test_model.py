"""The module and the rows of a table: shapes, names, initial parameters, dropout, precision."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import IMAGE_SIZES

from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.batch_norm import update_batch_stats
from alexnet_jax.model.layers import (
    ELU,
    LRN,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    LeakyReLU,
    Local,
    MaxPool,
    Normalize,
    ReLU,
    Sigmoid,
    Tanh,
)
from alexnet_jax.model.shapes import layer_infos
from alexnet_jax.model.variants import COURSE, DIGITS, PAPER, VARIANTS

# The course notes' table: name, output.
NOTES = [
    ('conv1', (55, 55, 96)),
    ('norm1', (55, 55, 96)),
    ('pool1', (27, 27, 96)),
    ('conv2', (27, 27, 256)),
    ('norm2', (27, 27, 256)),
    ('pool2', (13, 13, 256)),
    ('conv3', (13, 13, 384)),
    ('conv4', (13, 13, 384)),
    ('conv5', (13, 13, 256)),
    ('pool3', (6, 6, 256)),
    ('fc6', (4096,)),
    ('fc7', (4096,)),
    ('fc8', (1000,)),
]


def keys_of(examples: int, seed: int = 0) -> jax.Array:
    """One dropout key an example."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(examples))


def init(layers, image_size: int) -> dict:
    """Initial parameters, as NumPy."""
    image = jnp.zeros((1, image_size, image_size, 3))
    return jax.device_get(jax.jit(AlexNet(layers).init)(jax.random.key(0), image)['params'])


def outputs(layers, params, image, keys, dtype=jnp.float32) -> dict[str, jax.Array]:
    """What each layer with parameters returns, by name."""
    model = AlexNet(layers, dtype)
    apply = jax.jit(partial(model.apply, train=keys is not None, capture_intermediates=True))
    captured = apply({'params': params}, image, dropout_keys=keys)[1]['intermediates']
    return {name: captured[name]['__call__'][0] for name in params}


@pytest.fixture(scope='module')
def course():
    return init(COURSE, 227)


@pytest.fixture(scope='module')
def digits():
    return init(DIGITS, 28)


@pytest.fixture
def image():
    return jax.random.normal(jax.random.key(1), (2, 28, 28, 3))


# Shapes and names


@pytest.mark.parametrize('table', [COURSE, PAPER])
def test_rows_are_the_notes_table(table):
    found = [
        (row.name, row.output)
        for row in layer_infos(table, 227)
        if not isinstance(row.layer, ReLU | Dropout)
    ]
    assert found == NOTES


def test_rows_follow_each_other():
    shape = (227, 227, 3)
    for row in layer_infos(COURSE, 227):
        assert row.input == shape
        shape = row.output
    names = [row.name for row in layer_infos(COURSE, 227)]
    assert [n for n in names if n.startswith(('relu', 'drop'))] == [
        'relu1', 'relu2', 'relu3', 'relu4', 'relu5', 'relu6', 'drop1', 'relu7', 'drop2',
    ]  # fmt: skip


def test_the_module_computes_the_shapes_of_the_notes():
    model = AlexNet(COURSE)
    image = jax.ShapeDtypeStruct((2, 227, 227, 3), jnp.float32)

    def run(image):
        return model.init_with_output(jax.random.key(0), image, capture_intermediates=True)

    logits, variables = jax.eval_shape(run, image)
    assert logits.shape == (2, 1000)
    inner = variables['intermediates']
    expected = {n: (2, *shape) for n, shape in NOTES if n.startswith(('conv', 'fc'))}
    assert {name: inner[name]['__call__'][0].shape for name in expected} == expected
    assert inner['__call__'][0].shape == (2, 1000)


def test_every_variant_has_an_image_size():
    assert IMAGE_SIZES.keys() == VARIANTS.keys()


@pytest.mark.parametrize('variant', IMAGE_SIZES)
def test_rows_know_the_shapes_of_the_parameters(variant):
    size = IMAGE_SIZES[variant]
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    model = AlexNet(VARIANTS[variant])
    params = jax.eval_shape(model.init, jax.random.key(0), image)['params']
    found = {name: {kind: a.shape for kind, a in layer.items()} for name, layer in params.items()}
    assert found == {
        row.name: {'kernel': row.kernel, 'bias': row.biases}
        for row in layer_infos(VARIANTS[variant], size)
        if row.kernel
    }


@pytest.mark.slow
def test_parameters_are_named_after_the_layers(course):
    assert {name: layer['kernel'].shape for name, layer in course.items()} == {
        'conv1': (11, 11, 3, 96),
        'conv2': (5, 5, 96, 256),
        'conv3': (3, 3, 256, 384),
        'conv4': (3, 3, 384, 384),
        'conv5': (3, 3, 384, 256),
        'fc6': (9216, 4096),
        'fc7': (4096, 4096),
        'fc8': (4096, 1000),
    }


# Initial parameters


@pytest.mark.slow
def test_kernels_start_from_a_normal_distribution_of_std_a_hundredth(course):
    for layer in course.values():
        kernel = layer['kernel']
        assert kernel.std() == pytest.approx(0.01, rel=0.02)
        assert abs(kernel.mean()) < 0.0002  # 4 deviations of conv1's mean
        assert 0.6727 < (np.abs(kernel) < 0.01).mean() < 0.6927  # erf(1/sqrt 2) = 0.6827


@pytest.mark.slow
def test_biases_start_from_1_where_the_paper_says(course):
    biases = {'conv1': 0, 'conv2': 1, 'conv3': 0, 'conv4': 1, 'conv5': 1}
    biases |= {'fc6': 1, 'fc7': 1, 'fc8': 0}
    assert {name: set(layer['bias'].tolist()) for name, layer in course.items()} == {
        name: {float(bias)} for name, bias in biases.items()
    }


@pytest.mark.slow
def test_std_and_bias_are_the_layers_own():
    params = init((Conv('c', 64, 5, std=0.3, bias=0.5), Dense('d', 100, std=2.0)), 8)
    assert params['c']['kernel'].std() == pytest.approx(0.3, rel=0.05)
    assert params['d']['kernel'].std() == pytest.approx(2.0, rel=0.05)
    np.testing.assert_array_equal(params['c']['bias'], np.full(64, 0.5, np.float32))
    np.testing.assert_array_equal(params['d']['bias'], np.zeros(100, np.float32))


# What the module computes


def test_he_s_std():
    params = init((Conv('conv1', 64, 5, std='he'), Dense('fc2', 500, std='he')), 12)
    # sqrt(2 / inputs), inputs 5 * 5 * 3 = 75 and 8 * 8 * 64 = 4,096
    assert np.std(params['conv1']['kernel']) == pytest.approx((2 / 75) ** 0.5, rel=0.05)
    assert np.std(params['fc2']['kernel']) == pytest.approx((2 / 4096) ** 0.5, rel=0.01)


@pytest.mark.slow
def test_torch_s_initial_weights_and_biases_are_uniform():
    """U(+-1/sqrt(inputs)): 5 * 5 * 8 / 2 = 100 inputs of a group's filter, 8 * 8 * 400 = 25,600."""
    torch = {'bias': 'torch', 'std': 'torch'}
    net = (
        Conv('conv0', 8, 1),
        Conv('conv1', 400, 5, groups=2, **torch),
        Dense('fc2', 500, **torch),
    )
    params = init(net, 12)
    for layer, bound in {'conv1': 0.1, 'fc2': 1 / 160}.items():
        for array in params[layer].values():
            assert 0.98 * bound < np.abs(array).max() <= bound
            assert array.std() == pytest.approx(bound / 3**0.5, rel=0.1)
            assert abs(array.mean()) < 4 * bound / (3 * array.size) ** 0.5
    assert len({float(b) for b in params['fc2']['bias']}) > 490  # each is drawn


@pytest.mark.slow
def test_a_small_net_by_hand():
    layers = (Conv('c', 1, 1), ReLU(), LRN(k=1, n=1, alpha=1, beta=1), MaxPool(2, 2), Dense('d', 1))
    params = {
        'c': {'kernel': jnp.full((1, 1, 1, 1), 2.0), 'bias': jnp.array([-1.0])},
        'd': {'kernel': jnp.array([[10.0], [100.0]]), 'bias': jnp.array([7.0])},
    }
    image = jnp.array([[[0, 1, 2, 0], [0, 0, 0, 3]]], jnp.int32)[..., None]
    # 2x - 1, ReLU: [[0 1 3 0], [0 0 0 5]]; x/(1 + x^2): [[0 .5 .3 0], [0 0 0 5/26]]
    # pool: [.5, .3]; 10 * .5 + 100 * .3 + 7 = 42
    logits = AlexNet(layers).apply({'params': params}, image)
    np.testing.assert_allclose(logits, [[42.0]], rtol=1e-6)


def test_tanh_layer():
    y = AlexNet((Tanh(),)).apply({}, jnp.array([[-1.0, 0.0, 2.0]]))
    np.testing.assert_allclose(y, [[-0.76159416, 0.0, 0.96402758]], rtol=1e-6)


def test_sigmoid_layer():
    y = AlexNet((Sigmoid(),)).apply({}, jnp.array([[-1.0, 0.0, 2.0]]))
    np.testing.assert_allclose(y, [[0.26894142, 0.5, 0.88079708]], rtol=1e-6)


@pytest.mark.parametrize(
    ('layer', 'values', 'slopes'),
    [  # exp(-1) - 1 = -0.632; the derivative at 0 is that from the left
        (LeakyReLU(0.01), [-0.01, 0.0, 2.0], [0.01, 0.01, 1.0]),
        (ELU(1.0), [-0.63212056, 0.0, 2.0], [0.36787944, 1.0, 1.0]),
        (ELU(2.0), [-1.26424112, 0.0, 2.0], [0.73575888, 2.0, 1.0]),
    ],
)
def test_relatives_of_relu(layer, values, slopes):
    x = jnp.array([[-1.0, 0.0, 2.0]])
    apply = partial(AlexNet((layer,)).apply, {})
    np.testing.assert_allclose(apply(x), [values], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: apply(x).sum())(x), [slopes], rtol=1e-6)


def test_local_filters_by_hand():
    """Windows of 2 x 2 pixels on 2 x 3: two positions, each with its own weights and bias."""
    layer = Local('l', 1, 2)
    params = {
        'l': {
            'kernel': jnp.array([1.0, 10, 100, 1000, 2, 20, 200, 2000]).reshape(1, 2, 2, 2, 1, 1),
            'bias': jnp.array([0.5, 0.25]).reshape(1, 2, 1),
        }
    }
    image = jnp.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])[..., None]
    y = AlexNet((layer,)).apply({'params': params}, image)
    # 1 + 20 + 400 + 5000, and 2 (2 + 30 + 500 + 6000)
    np.testing.assert_array_equal(y[0, ..., 0], [[5421.5, 13064.25]])


@pytest.mark.slow
def test_he_s_std_of_local_filters():
    """sqrt(2 / inputs of a filter), 3 * 3 * 3 = 27, whatever the number of positions."""
    params = init((Local('l', 64, 3, std='he', bias='torch'), Dense('d', 1)), 8)
    assert params['l']['kernel'].shape == (6, 6, 3, 3, 3, 64)
    assert np.std(params['l']['kernel']) == pytest.approx((2 / 27) ** 0.5, rel=0.05)
    assert 0.98 / 27**0.5 < np.abs(params['l']['bias']).max() <= 1 / 27**0.5


def test_normalize_layer():
    layer = Normalize(mean=(100, 50, 0), std=(50, 25, 2))
    pixels = jnp.array([[[[0, 100, 7]]]], jnp.uint8)
    np.testing.assert_allclose(AlexNet((layer,)).apply({}, pixels), [[[[-2.0, 2.0, 3.5]]]])
    # bfloat16 would round 123.675 to 123.5; the difference is taken in float32.
    layer = Normalize(mean=(123.675,) * 3, std=(58.395,) * 3)
    y = AlexNet((layer,), jnp.bfloat16).apply({}, jnp.full((1, 1, 1, 3), 124, jnp.uint8))
    np.testing.assert_allclose(np.float32(y), 0.325 / 58.395, rtol=2**-8)


def test_zeros_on_one_side_only():
    params = {'c': {'kernel': jnp.ones((2, 2, 1, 1)), 'bias': jnp.zeros(1)}}
    image = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])[..., None]
    for pad, expected in {
        (0, 1): [[10, 6], [7, 4]],  # right and below
        (1, 0): [[1, 3], [4, 10]],  # left and above
    }.items():
        y = AlexNet((Conv('c', 1, 2, pad=pad),)).apply({'params': params}, image)
        np.testing.assert_array_equal(y[0, ..., 0], expected)


def test_fully_connected_groups_see_their_own_channels():
    """[N, 1, 2, 4]: group 0 has channels 0 and 1 of both pixels, group 1 has 2 and 3."""
    kernel = jnp.array([[1.0, 5.0], [10.0, 6.0], [100.0, 7.0], [1000.0, 8.0]])
    params = {'d': {'kernel': kernel, 'bias': jnp.array([0.5, 0.25])}}
    x = jnp.array([[[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]])
    y = AlexNet((Dense('d', 2, groups=2),)).apply({'params': params}, x)
    # 1 + 20 + 500 + 6000; 3*5 + 4*6 + 7*7 + 8*8
    np.testing.assert_array_equal(y, [[6521.5, 152.25]])


# Dropout


def test_dropout_drops_half_and_doubles_the_others():
    y = np.asarray(
        AlexNet((Dropout(0.5),)).apply(
            {}, jnp.full((8, 4096), 3.0), train=True, dropout_keys=keys_of(8)
        )
    )
    assert set(np.unique(y)) == {0.0, 6.0}
    assert (y == 0).mean() == pytest.approx(0.5, abs=0.01)  # 32,768 coins: deviation 0.0028
    assert ((y == 0).mean(1) > 0.46).all()  # in each example: deviation 0.0078
    assert len({row.tobytes() for row in y}) == 8  # and each has a mask of its own


def test_dropout_at_another_rate():
    y = np.asarray(
        AlexNet((Dropout(0.2),)).apply({}, jnp.ones((8, 4096)), train=True, dropout_keys=keys_of(8))
    )
    np.testing.assert_allclose(np.unique(y), [0.0, 1.25])
    assert (y == 0).mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.slow
def test_dropout_masks_depend_on_the_example_not_on_the_batch():
    model = AlexNet((Dropout(),))
    x, keys = jnp.ones((8, 100)), keys_of(8)
    whole = model.apply({}, x, train=True, dropout_keys=keys)
    halves = [
        model.apply({}, x[part], train=True, dropout_keys=keys[part])
        for part in (slice(0, 4), slice(4, 8))
    ]
    np.testing.assert_array_equal(whole, jnp.concatenate(halves))
    np.testing.assert_array_equal(
        whole[::-1], model.apply({}, x, train=True, dropout_keys=keys[::-1])
    )


@pytest.mark.slow
def test_dropout_masks_change_with_the_key():
    model, x = AlexNet((Dropout(),)), jnp.ones((2, 100))
    np.testing.assert_array_equal(
        model.apply({}, x, train=True, dropout_keys=keys_of(2)),
        model.apply({}, x, train=True, dropout_keys=keys_of(2)),
    )
    assert (
        model.apply({}, x, train=True, dropout_keys=keys_of(2))
        != model.apply({}, x, train=True, dropout_keys=keys_of(2, seed=1))
    ).any()


def test_two_dropout_layers_have_independent_masks():
    y = np.asarray(
        AlexNet((Dropout(), Dropout())).apply(
            {}, jnp.ones((8, 4096)), train=True, dropout_keys=keys_of(8)
        )
    )
    assert set(np.unique(y)) == {0.0, 4.0}
    assert (y == 4).mean() == pytest.approx(0.25, abs=0.01)  # one mask twice would keep 0.5


def test_nothing_is_dropped_at_test_time():
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(AlexNet((Dropout(), Dropout())).apply({}, x), x)


def test_the_paper_s_dropout_scales_at_test_time():
    x = jnp.full((8, 4096), 3.0)
    model = AlexNet((Dropout(0.25, scale_at_test=True),))
    y = np.asarray(model.apply({}, x, train=True, dropout_keys=keys_of(8)))
    assert set(np.unique(y)) == {0.0, 3.0}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_array_equal(model.apply({}, x), 0.75 * x)


@pytest.mark.slow
def test_dropout_of_the_net_is_after_fc6_and_fc7_only(digits, image):
    test = outputs(DIGITS, digits, image, None)
    train = outputs(DIGITS, digits, image, keys_of(2))
    same = {name: bool((test[name] == train[name]).all()) for name in digits}
    assert same == {name: name not in ('fc7', 'fc8') for name in digits}  # their inputs differ


# Precision


@pytest.mark.slow
def test_bfloat16_activations_and_float32_logits(digits, image):
    found = outputs(DIGITS, digits, image, keys_of(2), jnp.bfloat16)
    assert {name: str(array.dtype) for name, array in found.items()} == {
        name: 'float32' if name == 'fc8' else 'bfloat16' for name in digits
    }
    exact = outputs(DIGITS, digits, image, keys_of(2))['fc8']
    np.testing.assert_allclose(found['fc8'], exact, atol=0.02 * float(jnp.abs(exact).max()))


def test_parameters_and_gradients_of_a_bfloat16_net_are_float32(image):
    model = AlexNet(DIGITS, jnp.bfloat16)

    def init_and_grad(image):
        variables = model.init(jax.random.key(0), image)
        return variables, jax.grad(
            lambda v: model.apply(v, image, train=True, dropout_keys=keys_of(2)).sum()
        )(variables)

    for tree in jax.eval_shape(init_and_grad, image):
        assert {str(a.dtype) for a in jax.tree.leaves(tree)} == {'float32'}


# Running averages


def test_each_norm_moves_by_its_momentum_and_without_examples_not_at_all():
    layers = (BatchNorm('bn1'), BatchNorm('bn2', momentum=0.5))
    old = {name: {'mean': jnp.float32([1]), 'var': jnp.float32([4])} for name in ('bn1', 'bn2')}
    zeros = jax.tree.map(jnp.zeros_like, old)
    kept = update_batch_stats(layers, old, zeros, jnp.bool_(False))
    jax.tree.map(np.testing.assert_array_equal, kept, old)
    moved = update_batch_stats(layers, old, zeros, jnp.bool_(True))
    found = [float(moved[name][kind][0]) for name in ('bn1', 'bn2') for kind in ('mean', 'var')]
    assert found == pytest.approx([0.9, 3.6, 0.5, 2.0])
