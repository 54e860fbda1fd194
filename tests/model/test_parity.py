"""The networks against PyTorch ones that are built from the publications, not from `variants`.

They are compared in float64: in float32 a rounding difference can move the maximum of a pooling
window, which changes conv1's gradient by 2e-3.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_within

from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import BatchNorm, Dense, Table
from alexnet_jax.model.shapes import parameter_names
from alexnet_jax.model.variants import VARIANTS, build

torch = pytest.importorskip('torch')

nn = torch.nn
BATCH = 2


class Norm(nn.Module):
    """LRN across the channels of each tower. PyTorch divides alpha by the 5 channels."""

    def __init__(self, alpha: float, k: float, towers: int = 1):
        super().__init__()
        self.towers = towers
        self.norm = nn.LocalResponseNorm(5, alpha, 0.75, k)

    def forward(self, x):
        return torch.cat([self.norm(tower) for tower in x.chunk(self.towers, 1)], 1)


class WithinChannelNorm(nn.Module):
    """x / (1 + scale mean(x^2))^0.75 over size x size pixels, which are 0 beyond the edge."""

    def __init__(self, size: int, scale: float):
        super().__init__()
        self.size, self.scale = size, scale

    def forward(self, x):
        mean = nn.functional.avg_pool2d(x * x, self.size, 1, self.size // 2)
        return x / (1 + self.scale * mean) ** 0.75


class Halve(nn.Module):
    """The paper's dropout, at test time."""

    def forward(self, x):
        return x * 0.5


class Scale(nn.Module):
    """Caffe's `scale: 0.00390625`."""

    def forward(self, x):
        return x * 0.00390625


class Normalize(nn.Module):
    """torchvision's normalization, of pixels scaled to 0 .. 1."""

    def forward(self, x):
        mean = torch.tensor([0.485, 0.456, 0.406], dtype=x.dtype).reshape(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225], dtype=x.dtype).reshape(3, 1, 1)
        return (x / 255 - mean) / std


class Local(nn.Module):
    """3 x 3 filters of their own at each of side x side positions of a padded image."""

    def __init__(self, inputs: int, filters: int, side: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(side, side, filters, inputs, 3, 3))
        self.bias = nn.Parameter(torch.empty(filters, side, side))

    def forward(self, x):
        x = nn.functional.pad(x, (1, 1, 1, 1))
        side = len(self.weight)
        places = [(i, j) for i in range(side) for j in range(side)]
        patches = (x[:, :, i : i + 3, j : j + 3] for i, j in places)
        columns = [
            torch.einsum('nchw,fchw->nf', patch, self.weight[place])
            for patch, place in zip(patches, places, strict=True)
        ]
        return torch.stack(columns, -1).unflatten(-1, (side, side)) + self.bias


class Center(nn.Module):
    """CIFAR-10's mean and deviation of each channel, in units of 0 .. 255."""

    def forward(self, x):
        mean = torch.tensor([125.3, 123.0, 113.9], dtype=x.dtype).reshape(3, 1, 1)
        return (x - mean) / torch.tensor([63.0, 62.1, 66.7], dtype=x.dtype).reshape(3, 1, 1)


def one_or_two_towers(towers: int, dropout: type, hidden: int) -> list[nn.Module]:
    """Krizhevsky et al. 2012: 227 px; alpha = 1e-4 is not divided."""
    return [
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), Norm(5e-4, 2, towers), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, 1, 2, groups=towers), nn.ReLU(), Norm(5e-4, 2, towers)),
        *(nn.MaxPool2d(3, 2), nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, 1, 1, groups=towers), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, 1, 1, groups=towers), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *head(dropout, hidden),
    ]


def head(dropout: type, hidden: int) -> list[nn.Module]:
    return [
        *(nn.Flatten(), nn.Linear(256 * 6 * 6, hidden), nn.ReLU(), dropout()),
        *(nn.Linear(hidden, hidden), nn.ReLU(), dropout(), nn.Linear(hidden, 1000)),
    ]


def source_2012(hidden: int) -> list[nn.Module]:
    """layers-145.cfg and layer-params-145.cfg; `layer.py` divides both scales by the window."""
    return [
        *(nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, 96, 11, 4)),
        *(Norm(1e-4, 2, 2), nn.MaxPool2d(3, 2), nn.ReLU()),
        *(nn.Conv2d(96, 256, 5, 1, 2, groups=2), nn.ReLU()),
        *(Norm(1e-4, 2, 2), WithinChannelNorm(5, 1e-3), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, 1, 1, groups=2), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, 1, 1, groups=2), nn.MaxPool2d(3, 2), nn.ReLU()),
        *head(Halve, hidden),
    ]


def caffe(pool_before_norm: bool, hidden: int) -> list[nn.Module]:
    """models/bvlc_alexnet and bvlc_reference_caffenet: Caffe divides alpha, and k is 1."""

    def pool_and_norm():
        layers = [Norm(1e-4, 1), nn.MaxPool2d(3, 2, ceil_mode=True)]
        return layers[::-1] if pool_before_norm else layers

    return [
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), *pool_and_norm()),
        *(nn.Conv2d(96, 256, 5, 1, 2, groups=2), nn.ReLU(), *pool_and_norm()),
        *(nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, 1, 1, groups=2), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, 1, 1, groups=2), nn.ReLU()),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        *head(nn.Dropout, hidden),
    ]


def torchvision(hidden: int) -> list[nn.Module]:
    """Its features, avgpool and classifier."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(256 * 6 * 6, hidden), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1000)),
    )
    return [Normalize(), features, nn.AdaptiveAvgPool2d((6, 6)), nn.Flatten(), classifier]


def alexnet_bn(hidden: int) -> list[nn.Module]:
    """NVIDIA's Caffe, models/alexnet_bn/train_val2.prototxt."""

    def norm(channels):
        return nn.BatchNorm2d(channels, 1e-4, affine=False)

    return [
        *(Scale(), nn.Conv2d(3, 96, 11, 4), nn.ReLU(), nn.MaxPool2d(3, 2), norm(96)),
        *(nn.Conv2d(96, 256, 5, 1, 2, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2), norm(256)),
        *(nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(), norm(384)),
        *(nn.Conv2d(384, 384, 3, 1, 1, groups=2), nn.ReLU(), norm(384)),
        *(nn.Conv2d(384, 256, 3, 1, 1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *head(nn.Dropout, hidden),
    ]


def cifar10_18pct(hidden: int, divisor: int | None = None) -> list[nn.Module]:
    """layers-18pct.cfg: pools round up, and average only the pixels that exist; in 2011, all 9."""
    pools = [nn.AvgPool2d(3, 2, ceil_mode=True, divisor_override=divisor) for _ in range(2)]
    return [
        *(nn.Conv2d(3, 32, 5, 1, 2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU()),
        *(WithinChannelNorm(3, 5e-5), nn.Conv2d(32, 32, 5, 1, 2), nn.ReLU()),
        *(pools[0], WithinChannelNorm(3, 5e-5)),
        *(nn.Conv2d(32, 64, 5, 1, 2), nn.ReLU(), pools[1]),
        *(nn.Flatten(), nn.Linear(1024, 10)),
    ]


def cifar10_80sec(hidden: int, activation: Callable[[], nn.Module] = nn.ReLU) -> list[nn.Module]:
    """layers-80sec.cfg."""
    return [
        *(nn.Conv2d(3, 32, 5, 1, 2), activation(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(nn.Conv2d(32, 32, 5, 1, 2), activation(), nn.AvgPool2d(3, 2, ceil_mode=True)),
        *(nn.Conv2d(32, 64, 5, 1, 2), activation(), nn.AvgPool2d(3, 2, ceil_mode=True)),
        *(nn.Flatten(), nn.Linear(1024, hidden), activation(), nn.Linear(hidden, 10)),
    ]


def conv_local(filters: int, norm: Callable[[], nn.Module] = nn.Identity) -> list[nn.Module]:
    """layers-conv-local-13pct.cfg and, with norms and 64 filters in local3, -11pct.cfg."""
    return [
        *(nn.Conv2d(3, 64, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), norm()),
        *(nn.Conv2d(64, 64, 5, 1, 2), nn.ReLU(), norm(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(Local(64, filters, 6), nn.ReLU(), Local(filters, 32, 6), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(6 * 6 * 32, 10)),
    ]


def lenet5(hidden: int) -> list[nn.Module]:
    """LeCun et al. 1998, without the details that `variants.LENET5` lists."""
    return [
        *(Center(), nn.Conv2d(3, 6, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(16 * 5 * 5, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()),
        nn.Linear(hidden, 10),
    ]


# Image size, features of the hidden fully connected layers (4096 takes seconds per net), network.
NETS: dict[str, tuple[int, int, Callable[[int], list]]] = {
    'course': (227, 4096, lambda hidden: one_or_two_towers(1, nn.Dropout, hidden)),
    'paper': (227, 500, lambda hidden: one_or_two_towers(2, Halve, hidden)),
    'source_2012': (224, 500, source_2012),
    'bvlc': (227, 500, lambda hidden: caffe(False, hidden)),
    'caffenet': (227, 500, lambda hidden: caffe(True, hidden)),
    'torchvision': (224, 500, torchvision),
    'alexnet_bn': (227, 500, alexnet_bn),
    'cifar10_18pct': (32, 64, cifar10_18pct),
    'cifar10_80sec': (32, 64, cifar10_80sec),
    'cifar10_13pct': (24, 0, lambda _: conv_local(32)),
    'cifar10_11pct': (24, 0, lambda _: conv_local(64, partial(nn.LocalResponseNorm, 9, 1e-3))),
    'lenet5': (32, 100, lenet5),
    # with an edit
    'cifar10_18pct+full_window_average': (32, 64, partial(cifar10_18pct, divisor=9)),
    'cifar10_80sec+leaky_relu': (32, 64, partial(cifar10_80sec, activation=nn.LeakyReLU)),
    'cifar10_80sec+elu': (32, 64, partial(cifar10_80sec, activation=nn.ELU)),
}


def with_hidden(table: Table, features: int) -> Table:
    """The table with this number of features in each hidden fully connected layer."""
    return tuple(
        dataclasses.replace(layer, features=features)
        if isinstance(layer, Dense) and layer is not table[-1]
        else layer
        for layer in table
    )


def set_lively_weights(net: nn.Module) -> None:
    """Keep activations at one scale down to the logits, large enough for the norms to matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            filters = parameter.flatten(0, -4) if parameter.ndim > 4 else parameter
            std = (2 / filters[0].numel()) ** 0.5 if parameter.ndim not in (1, 3) else 1.0
            parameter.normal_(0, std, generator=generator)
        *_, last_weight, _ = net.parameters()
        last_weight *= 0.05  # a softmax that is not saturated
        for norm in norms_of(net):
            norm.running_mean.normal_(0, 1, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)


def norms_of(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def variables_of(layers: Table, net: nn.Module) -> dict:
    """Flax's variables: the parameters and the running averages of batch norm."""
    names = [layer.name for layer in layers if isinstance(layer, BatchNorm)]
    stats = {
        name: {'mean': norm.running_mean.numpy(), 'var': norm.running_var.numpy()}
        for name, norm in zip(names, norms_of(net), strict=True)
    }
    return {'params': to_tree(layers, list(net.parameters())), 'batch_stats': stats}


def to_tree(layers: Table, arrays: list[torch.Tensor]) -> dict:
    """A flax tree of parameters (or gradients) in PyTorch's order and layout."""
    tree, filters = {}, None
    for name, array in zip(parameter_names(layers), arrays, strict=True):
        layer, kind = name.split('/')
        if array.ndim == 6:  # of Local: H', W', OIHW
            filters = array.shape[2]
            array = array.permute(0, 1, 4, 5, 3, 2)
        elif array.ndim == 3:  # its biases
            array = array.permute(1, 2, 0)
        elif array.ndim == 4:
            filters = len(array)
            array = array.permute(2, 3, 1, 0)  # OIHW -> HWIO
        elif array.ndim == 2 and filters:  # flattened from CHW -> flattened from HWC
            side = round((array.shape[1] / filters) ** 0.5)
            array = array.reshape(-1, filters, side, side).permute(2, 3, 1, 0).flatten(0, 2)
            filters = None
        elif array.ndim == 2:
            array = array.T
        tree.setdefault(layer, {})[kind] = array.detach().numpy()
    return tree


@pytest.fixture(params=NETS)
def pair(request):
    """A table, the equivalent PyTorch net in float64, images with a realistic scale, labels."""
    size, hidden, make = NETS[request.param]
    net = nn.Sequential(*make(hidden)).double().eval()
    set_lively_weights(net)
    rng = np.random.default_rng(0)
    mean = 120 if request.param in ('torchvision', 'lenet5') else 0
    images = rng.normal(mean, 60, (BATCH, size, size, 3))
    variant, *edits = request.param.split('+')
    classes = VARIANTS[variant][-1].features
    layers = with_hidden(build(variant, tuple(edits), classes), hidden)
    return layers, net, images, rng.integers(0, layers[-1].features, BATCH)


@pytest.mark.slow
def test_logits_and_gradients(pair):
    layers, net, images, labels = pair
    logits = net(torch.from_numpy(images).permute(0, 3, 1, 2))
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    expected = to_tree(layers, [p.grad for p in net.parameters()])

    with jax.enable_x64(True):
        model = AlexNet(layers, dtype=jnp.float64)

        @jax.jit
        def loss_and_gradients(variables):
            def loss_fn(params):
                logits = model.apply(variables | {'params': params}, images)
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
                return losses.mean(), logits

            return jax.value_and_grad(loss_fn, has_aux=True)(variables['params'])

        (value, actual), gradients = loss_and_gradients(variables_of(layers, net))

    assert float(value) == pytest.approx(loss.item(), rel=1e-9)
    assert_within(actual, logits.detach().numpy(), 1e-10)
    assert gradients.keys() == expected.keys()
    for layer, kinds in expected.items():
        for kind, gradient in kinds.items():
            assert gradients[layer][kind].dtype == np.float64
            assert_within(gradients[layer][kind], gradient, 1e-6)
