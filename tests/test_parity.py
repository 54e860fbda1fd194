"""The networks against PyTorch, built here from the published tables and not from `variants`.

Gradients are compared in float64: in float32 one rounding difference may move the maximum of a
pooling window, and with it conv1's gradient by 2e-3.
"""

import os
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax.model import AlexNet
from alexnet_jax.variants import VARIANTS

if os.environ.get('CI') == 'true':
    import torch
else:
    torch = pytest.importorskip('torch')


class TowerNorm(torch.nn.Module):
    """LRN with the paper's constants, by each tower on its own. PyTorch divides alpha by n = 5."""

    def __init__(self, towers: int):
        super().__init__()
        self.towers = towers
        self.norm = torch.nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)

    def forward(self, x):
        return torch.cat([self.norm(half) for half in x.chunk(self.towers, dim=1)], dim=1)


def torch_net(towers: int) -> torch.nn.Sequential:
    """Krizhevsky et al. 2012 on one or two towers, 227 px, NCHW."""
    nn = torch.nn
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 96, 11, stride=4),
            relu1=nn.ReLU(),
            norm1=TowerNorm(towers),
            pool1=nn.MaxPool2d(3, 2),
            conv2=nn.Conv2d(96, 256, 5, padding=2, groups=towers),
            relu2=nn.ReLU(),
            norm2=TowerNorm(towers),
            pool2=nn.MaxPool2d(3, 2),
            conv3=nn.Conv2d(256, 384, 3, padding=1),
            relu3=nn.ReLU(),
            conv4=nn.Conv2d(384, 384, 3, padding=1, groups=towers),
            relu4=nn.ReLU(),
            conv5=nn.Conv2d(384, 256, 3, padding=1, groups=towers),
            relu5=nn.ReLU(),
            pool3=nn.MaxPool2d(3, 2),
            flatten=nn.Flatten(),
            fc6=nn.Linear(256 * 6 * 6, 4096),
            relu6=nn.ReLU(),
            drop6=nn.Dropout(0.5),
            fc7=nn.Linear(4096, 4096),
            relu7=nn.ReLU(),
            drop7=nn.Dropout(0.5),
            fc8=nn.Linear(4096, 1000),
        )
    ).eval()


def set_lively_weights(net: torch.nn.Module) -> None:
    """Activations keep their size down to the logits, and LRN's sums count beside its k."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            fan_in = parameter[0].numel()
            std = (2 / fan_in) ** 0.5 if name.endswith('weight') else 1.0
            parameter.normal_(0, std, generator=generator)
        net.fc8.weight *= 0.05  # a softmax that is not saturated


def to_jax(name: str, array: torch.Tensor) -> np.ndarray:
    """A weight or bias of `torch_net`, or its gradient, in the layout of flax."""
    if array.ndim == 4:
        array = array.permute(2, 3, 1, 0)  # OIHW -> HWIO
    elif name == 'fc6.weight':  # flattened from CHW -> flattened from HWC
        array = array.reshape(4096, 256, 6, 6).permute(2, 3, 1, 0).reshape(9216, 4096)
    elif array.ndim == 2:
        array = array.T
    return array.detach().numpy()


def to_tree(named) -> dict:
    tree = {}
    for name, array in named:
        layer, kind = name.split('.')
        kind = {'weight': 'kernel', 'bias': 'bias'}[kind]
        tree.setdefault(layer, {})[kind] = to_jax(name, array)
    return tree


def assert_within(actual, desired, fraction: float):
    """Within a fraction of the largest magnitude."""
    scale = np.abs(desired).max()
    assert scale > 0
    assert np.abs(np.asarray(actual) - desired).max() <= fraction * scale


@pytest.fixture(scope='module', params=[('course', 1), ('paper', 2)], ids=['course', 'paper'])
def pair(request):
    """A table, the PyTorch net of the same meaning in float64, images like real ones, labels."""
    variant, towers = request.param
    net = torch_net(towers).double()
    set_lively_weights(net)
    rng = np.random.default_rng(0)
    images = rng.normal(0, 60, (4, 227, 227, 3))
    return VARIANTS[variant], net, images, rng.integers(0, 1000, 4)


def test_logits(pair):
    layers, net, images, _ = pair
    net = net.float()
    images = images.astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    params = to_tree(net.named_parameters())
    actual = jax.jit(AlexNet(layers).apply)({'params': params}, images)
    assert actual.shape == (4, 1000)
    assert actual.dtype == np.float32
    assert_within(actual, expected, 1e-5)


def test_gradients(pair):
    layers, net, images, labels = pair
    net = net.double()
    net.zero_grad()
    loss = torch.nn.functional.cross_entropy(
        net(torch.from_numpy(images).permute(0, 3, 1, 2)), torch.from_numpy(labels)
    )
    loss.backward()
    expected = to_tree((name, p.grad) for name, p in net.named_parameters())

    with jax.enable_x64(True):
        model = AlexNet(layers, dtype=jnp.float64)

        @jax.jit
        def loss_and_gradients(params):
            def loss_fn(params):
                logits = model.apply({'params': params}, images)
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            return jax.value_and_grad(loss_fn)(params)

        value, gradients = loss_and_gradients(to_tree(net.named_parameters()))

    assert float(value) == pytest.approx(loss.item(), rel=1e-9)
    assert gradients.keys() == expected.keys()
    for layer, kinds in expected.items():
        for kind, gradient in kinds.items():
            assert gradients[layer][kind].dtype == np.float64
            assert_within(gradients[layer][kind], gradient, 1e-6)
