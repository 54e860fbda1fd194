"""The PyTorch networks that the benchmark times compute what AlexNet does from the same table."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fake_data import config_of
from helpers import assert_within

from alexnet_jax.model.alexnet import (
    LRN,
    AlexNet,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Local,
    MaxPool,
    Normalize,
    ReLU,
    Tanh,
    WithinChannelLRN,
)
from alexnet_jax.model.shapes import layer_infos

torch = pytest.importorskip('torch')

from alexnet_jax.benchmark import torch_baseline  # noqa: E402

SIZE = 31
TABLE = (
    Normalize((0.1, 0.2, -0.3), (1.0, 2.0, 0.5)),
    Conv('conv1', 8, 5, stride=2), ReLU(), LRN(alpha=0.1, groups=2),
    MaxPool(3, 2, ceil_mode=True),                                        # 31 -> 14 -> 7, over by 1
    Conv('conv2', 12, 2, groups=2), Tanh(), LRN(1.0, 3, 0.5, 0.5),
    AvgPool(3, 2, ceil_mode=True),                                        # 7 -> 6 -> 3, over by 1
    Conv('conv3', 12, 3, pad=1), ReLU(), LRN(alpha=0.1), WithinChannelLRN(alpha=0.1),
    Dense('fc4', 16), ReLU(), Dropout(0.5),
    Dense('fc5', 10),
)  # fmt: skip
IMAGES = np.random.default_rng(1).normal(0, 1, (4, SIZE, SIZE, 3))
LABELS = np.array([0, 3, 9, 3])


def weights() -> dict:
    """Float64, He-like."""
    rng = np.random.default_rng(0)
    return {
        row.name: {
            'kernel': rng.normal(0, np.sqrt(2 / np.prod(row.kernel[:-1])), row.kernel),
            'bias': rng.normal(0, 0.5, row.kernel[-1]),
        }
        for row in layer_infos(TABLE, SIZE)
        if row.kernel
    }


def to_torch(tree: dict) -> dict[str, np.ndarray]:
    """Arrays in the layout of PyTorch, by its names; dense layers see CHW flattened."""
    arrays = {}
    for row in layer_infos(TABLE, SIZE):
        if row.kernel:
            kernel = np.asarray(tree[row.name]['kernel'])
            if isinstance(row.layer, Dense):
                kernel = kernel.reshape(*row.input, -1)  # HWC of the image that is flattened
            order = {4: (3, 2, 0, 1), 2: (1, 0)}[kernel.ndim]
            kernel = kernel.transpose(order)
            if isinstance(row.layer, Dense):
                kernel = kernel.reshape(len(kernel), -1)
            arrays[f'{row.name}.weight'] = kernel
            arrays[f'{row.name}.bias'] = np.asarray(tree[row.name]['bias'])
    return arrays


def net_of(tuned: bool, dtype: torch.dtype) -> torch.nn.Module:
    net = torch_baseline.build(TABLE, SIZE, tuned).eval().to(dtype)
    state = {name: torch.from_numpy(a.copy()).to(dtype) for name, a in to_torch(weights()).items()}
    net.load_state_dict(state)
    return net


def images_for(net: torch.nn.Module) -> torch.Tensor:
    dtype = next(net.parameters()).dtype
    return torch.from_numpy(IMAGES).permute(0, 3, 1, 2).contiguous().to(dtype)


@pytest.mark.slow
@pytest.mark.parametrize('tuned', [False, True])
def test_logits(tuned):
    params = jax.tree.map(np.float32, weights())
    expected = np.asarray(AlexNet(TABLE).apply({'params': params}, np.float32(IMAGES)))
    net = net_of(tuned, torch.float32)
    with torch.no_grad():
        found = net(images_for(net)).numpy()
    assert np.ptp(expected) > 0.5
    assert_within(found, expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('tuned', [False, True])
def test_gradients(tuned):
    with jax.enable_x64(True):
        model = AlexNet(TABLE, dtype=jnp.float64)

        @jax.jit
        @jax.grad
        def gradients(params):
            logits = model.apply({'params': params}, IMAGES)
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

        expected = to_torch(gradients(weights()))

    net = net_of(tuned, torch.float64)
    loss = torch.nn.functional.cross_entropy(net(images_for(net)), torch.from_numpy(LABELS))
    loss.backward()
    found = {name: parameter.grad.numpy() for name, parameter in net.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.dtype == np.float64
        assert_within(found[name], gradient, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('tuned', [False, True])
@pytest.mark.parametrize('train', [False, True])
def test_steps_run(train, tuned):
    """Training moves the weights, scoring does not."""
    # Without dropout: its masks alone would change the loss.
    config = config_of(variant='digits', edits=('no_dropout',), image_size=28, batch_size=4)
    step = torch_baseline.make_step(config, train, tuned)
    results = [step().item() for _ in range(2)]
    assert np.isfinite(results).all()
    assert (results[0] != results[1]) == train


@pytest.mark.parametrize(
    ('layer', 'message'),
    [
        (Local('local2', 4, 3), r"PyTorch has no layer for Local\(name='local2'"),
        (Conv('conv2', 4, 3, pad=(0, 1)), r"PyTorch has no layer for Conv\(name='conv2'"),
        (Dense('fc2', 4, groups=2), r"PyTorch has no layer for Dense\(name='fc2'"),
    ],
)
def test_what_pytorch_lacks_is_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        torch_baseline.build((Conv('conv1', 4, 3), layer, Dense('fc3', 2)), 8)
