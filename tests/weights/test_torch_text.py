"""The generated PyTorch modules against Flax, with weights at which every layer counts."""

import types

import lively_nets
import numpy as np
import pytest
from helpers import assert_within

from alexnet_jax.model.edits import EDITS
from alexnet_jax.model.layers import Dense, Dropout
from alexnet_jax.model.variants import VARIANTS
from alexnet_jax.weights import layout, torch_text

torch = pytest.importorskip('torch')


class Net:
    """A narrow table with weights, a mean image and images."""

    def __init__(self, variant: str, *edits: str):
        table = VARIANTS[variant]
        for edit in edits:
            table = EDITS[edit](table)
        self.layers, self.size = lively_nets.narrow(table), lively_nets.size_of(variant)
        self.variables = lively_nets.lively(self.layers, self.size)
        shape = (self.size, self.size, 3)
        self.mean = np.random.default_rng(2).uniform(0, 255, shape).astype(np.float32)
        self.images = lively_nets.images(self.size)

    @property
    def text(self) -> str:
        return torch_text.to_text(self.layers, self.size, 'a test', has_mean=True)

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        tensors = layout.to_torch(self.layers, self.size, self.variables)
        return tensors | {'mean': np.ascontiguousarray(self.mean.transpose(2, 0, 1))}

    @property
    def logits(self) -> np.ndarray:
        return lively_nets.logits_of(self.layers, self.variables, self.images - self.mean)


def module(text: str, **arguments):
    """An instance of the class that a file of this text would define."""
    found = types.ModuleType('generated')
    exec(compile(text, 'alexnet.py', 'exec'), found.__dict__)
    return found.AlexNet(**arguments).eval()


def loaded(text: str, tensors: dict[str, np.ndarray]):
    net = module(text)
    net.load_state_dict({name: torch.from_numpy(np.array(t)) for name, t in tensors.items()})
    return net


def logits_of(net, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def cases():
    edited = [
        (variant, edit)
        for variant in ('digits', 'cifar10_18pct', 'paper')
        for edit, change in EDITS.items()
        if change(VARIANTS[variant]) != VARIANTS[variant]
    ]
    for case in [*((name,) for name in VARIANTS), *edited]:
        slow = () if case[0] in lively_nets.SIZES else pytest.mark.slow  # a second to compile
        yield pytest.param(case, id='-'.join(case), marks=slow)


@pytest.mark.parametrize('case', list(cases()))
def test_logits(case):
    net = Net(*case)
    found = loaded(net.text, net.tensors)  # strictly
    assert_within(logits_of(found, net.images), net.logits, 1e-5)
    floats = net.images.astype(np.float32)
    np.testing.assert_array_equal(logits_of(found, floats), logits_of(found, net.images))


def test_the_names_of_the_state_dict_are_those_of_the_layout():
    net = Net('alexnet_bn')
    counters = {f'bn{i}.num_batches_tracked' for i in (2, 3, 4, 5)}  # PyTorch's own
    assert module(net.text).state_dict().keys() == net.tensors.keys() | counters


MUTANTS = {
    'mean left out': ('course', lambda text: text.replace(' - self.mean', '')),
    'alpha not times n': ('course', lambda text: text.replace('0.0005', '0.0001')),
    'norms across towers': ('paper', lambda text: text.replace('towers=2', 'towers=1')),
    'dropout not scaled': ('paper', lambda text: text.replace('PaperDropout(0', 'nn.Dropout(0')),
    'pads on both sides': ('source_2012', lambda text: text.replace('0, 3, 0, 3', '2, 1, 2, 1')),
    'pixels over the edge counted': (
        'cifar10_18pct',
        lambda text: text.replace('AvgPool2d(3, 2, ceil_mode=True', 'AvgPool2d(3, 2, padding=1'),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(('variant', 'change'), MUTANTS.values(), ids=MUTANTS)
def test_what_a_mistake_would_change(variant, change):
    net = Net(variant)
    text = change(net.text)
    assert text != net.text
    with pytest.raises(AssertionError):
        assert_within(logits_of(loaded(text, net.tensors), net.images), net.logits, 3e-3)


def test_what_fc6_in_the_order_of_this_package_would_change():
    net = Net('course')
    kernel = net.variables['params']['fc6']['kernel']
    wrong = loaded(net.text, net.tensors | {'fc6.weight': kernel.T})
    with pytest.raises(AssertionError):
        assert_within(logits_of(wrong, net.images), net.logits, 0.1)


def test_without_a_mean():
    net = Net('digits')
    text = torch_text.to_text(net.layers, net.size, 'a test', has_mean=False)
    tensors = {name: t for name, t in net.tensors.items() if name != 'mean'}
    without = logits_of(loaded(text, tensors), net.images.astype(np.float32) - net.mean)
    assert_within(without, net.logits, 1e-5)


def test_helpers_only_where_they_are_needed():
    def classes(variant):
        text = torch_text.to_text(VARIANTS[variant], 224, 'a test', has_mean=True)
        return [line.split('(')[0] for line in text.splitlines() if line.startswith('class ')]

    assert classes('course') == ['class AlexNet']
    assert classes('torchvision') == ['class Normalize', 'class AlexNet']
    assert classes('cifar10_13pct') == ['class LocalConv2d', 'class AlexNet']
    assert classes('source_2012') == [
        *('class TowerLRN', 'class WithinChannelLRN', 'class PaperDropout', 'class AlexNet')
    ]


def test_other_classes():
    found = module(Net('digits').text, num_classes=3)
    assert found(torch.zeros(2, 3, 28, 28)).shape == (2, 3)


@pytest.mark.parametrize('scale_at_test', [False, True])
def test_dropout_in_training(scale_at_test):
    """Either what is left is scaled by 1 / (1 - rate), or it is what it was."""
    layers = (Dropout(0.75, scale_at_test), Dense('fc', 10))
    net = module(torch_text.to_text(layers, 4, 'a test', has_mean=False)).train()
    torch.manual_seed(0)
    values = set(net.drop1(torch.ones(1000)).tolist())
    assert values == {0, 1 if scale_at_test else 4}


def test_momentum_of_batch_norm():
    """0.9 of the average so far and 0.1 of the batch's."""
    found = module(Net('alexnet_bn').text).train()
    found(torch.zeros(2, 3, 128, 128))
    assert found.bn2.momentum == 0.1
    assert found.bn2.eps == 1e-4


def test_readable():
    for variant, table in VARIANTS.items():
        text = torch_text.to_text(table, lively_nets.size_of(variant), 'a test', has_mean=True)
        assert all(len(line) <= 100 and line == line.rstrip() for line in text.splitlines())
