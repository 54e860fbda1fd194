"""Exported folders, read by torch, genuine torchvision and the safetensors package."""

import dataclasses
import json
import re
import sys

import jax
import lively_nets
import numpy as np
import pytest
from etils import epath
from helpers import assert_within
from PIL import Image
from tables import IMAGE_SIZES
from trained_runs import save_run

from alexnet_jax.benchmark.torchvision_baseline import import_torchvision
from alexnet_jax.cli import load_recipe
from alexnet_jax.config import default_config
from alexnet_jax.data import statistics
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model import variants
from alexnet_jax.weights import layout, tensors, torch_out

torch = pytest.importorskip('torch')
safetensors = pytest.importorskip('safetensors')
load_file = pytest.importorskip('safetensors.torch').load_file

OPS = 'decode|resize(36)|center_crop(28)'
NAMES = ['zero', 'one`|', 'œuf', '卵', 'four', 'five', 'n02123045']
SHOWN = [*NAMES[:-1], 'tabby']


@pytest.fixture
def make_net(tmp_path):
    """make_net(**values): a trained net, by default of digits with a mean image."""

    def make(**values) -> TrainedNet:
        config = default_config()
        config.variant, config.edits, config.num_classes = 'digits', ('half_width',), len(NAMES)
        config.image_size, config.data.eval_ops = 28, OPS
        config.update_from_flattened_dict(values)
        folder = tmp_path / 'run'
        table = variants.build(config.variant, config.edits, config.num_classes)
        variables = lively_nets.lively(table, config.image_size)
        save_run(folder, config, NAMES, {10: (variables, 0.75)})
        mean = np.random.default_rng(1).uniform(80, 160, (36, 36, 3)).astype(np.float32)
        found = statistics.Statistics(mean, np.ones(3), np.eye(3), 'here')
        statistics.save(epath.Path(folder) / 'statistics.npz', found)
        return TrainedNet.load(folder, dtype='float32')

    return make


@pytest.fixture
def folder(make_net, tmp_path):
    """A net and the folder that it was exported to."""
    net = make_net()
    torch_out.write(net, tmp_path / 'out')
    return net, tmp_path / 'out'


def module_of(folder, monkeypatch):
    """The class that a folder's alexnet.py defines."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, 'alexnet', raising=False)
    import alexnet

    monkeypatch.delitem(sys.modules, 'alexnet')
    return alexnet.AlexNet


def test_the_module_gives_the_same(folder, monkeypatch):
    net, out = folder
    module = module_of(out, monkeypatch)().eval()
    module.load_state_dict(load_file(out / 'model.safetensors'))  # strictly
    images = lively_nets.images(28)
    with torch.no_grad():
        logits = module(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert_within(logits, net.features(images, 'fc8'), 1e-5)
    assert_within(logits.softmax(1), net.probabilities(images), 1e-5)


@pytest.mark.parametrize(
    'values',
    [
        {},
        {'data.mean': 'none'},
        {'variant': 'cifar10_18pct', 'image_size': 32},
        {'variant': 'alexnet_bn', 'image_size': 67, 'data.mean': 'none'},
        {'variant': 'torchvision', 'image_size': 67, 'data.mean': 'none'},
    ],
    ids=['mean', 'no mean', 'cifar10', 'batch norm', 'torchvision, narrow'],
)
def test_back_again_bit_for_bit(make_net, tmp_path, values):
    net = make_net(**values)
    torch_out.write(net, tmp_path / 'out')
    found, metadata = tensors.read(tmp_path / 'out' / 'model.safetensors')
    with safetensors.safe_open(tmp_path / 'out' / 'model.safetensors', 'pt') as file:
        assert file.metadata() == metadata
    assert metadata.pop('format') == 'pt'
    about = {key: json.loads(text) for key, text in metadata.items()}
    assert about['class_names'] == NAMES
    config = about['config']
    mean = found.pop('mean', None)
    if config['data']['mean'] == 'image':
        np.testing.assert_array_equal(mean.transpose(1, 2, 0), net.mean)
    else:
        assert mean is None
    table = variants.build(config['variant'], tuple(config['edits']), config['num_classes'])
    variables = layout.from_torch(table, config['image_size'], found)
    jax.tree.map(np.testing.assert_array_equal, variables, jax.device_get(net.variables))


def test_files_of_a_folder(folder):
    _, out = folder
    assert sorted(path.name for path in out.iterdir()) == [
        *('README.md', 'alexnet.py', 'config.json', 'model.safetensors')
    ]
    for path in out.iterdir():
        assert str(out.parent).encode() not in path.read_bytes()


def test_config(folder):
    _, out = folder
    config = json.loads((out / 'config.json').read_text())
    assert config == {
        'architecture': 'alexnet',
        'variant': 'digits',
        'edits': ['half_width'],
        'num_classes': 7,
        'num_features': 64,  # of fc7, half of 128
        'label_names': NAMES,
        'label_descriptions': dict(zip(NAMES, SHOWN, strict=True)),
        'pretrained_cfg': {
            'input_size': [3, 28, 28],
            'normalizes': True,
            'interpolation': 'bilinear',
            'crop_pct': 0.7778,  # 28 / 36
            'crop_mode': 'squash',
            'first_conv': 'conv1',
            'classifier': 'fc8',
        },
        'eval_ops': OPS,
    }


def test_mean_and_std_of_the_config():
    about = {
        'image_size': 224,
        'config': {'variant': 'torchvision', 'edits': ()},
        'class_names': [],
        'eval_ops': 'decode|resize_short(256)|center_crop(224)',
    }
    found = torch_out.describe_model(variants.TORCHVISION, about, None)['pretrained_cfg']
    assert (found['mean'], found['std']) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert (found['normalizes'], found['crop_pct'], found['crop_mode']) == (False, 0.875, 'center')

    ops = 'decode(stored)|resize_short(256)|center_crop(256)|center_crop(227)'
    found = torch_out.describe_model(variants.COURSE, about | {'eval_ops': ops}, None)
    assert found['pretrained_cfg']['crop_pct'] == 0.8867  # 227 / 256

    about = about | {'config': {'variant': 'bvlc', 'edits': ()}, 'eval_ops': 'decode'}
    color = np.full((224, 224, 3), (51, 102, 127.5), np.float32)
    found = torch_out.describe_model(variants.BVLC, about, color)['pretrained_cfg']
    assert (found['mean'], found['std']) == ([0.2, 0.4, 0.5], [0.0039216] * 3)
    assert 'crop_pct' not in found


@pytest.mark.parametrize(
    ('edits', 'size', 'expected'),
    [
        ((), 224, True),
        ((), 227, True),
        (('he_init', 'no_dropout'), 224, True),
        (('no_lrn',), 224, True),  # it has none
        ((), 192, False),  # maps of 5 x 5, which torchvision would spread to 6 x 6
        (('half_width',), 224, False),
        (('tanh',), 224, False),  # the same names and shapes
        (('average_pool',), 224, False),
    ],
)
def test_what_torchvision_computes(edits, size, expected):
    table = variants.build('torchvision', edits, 7)
    assert torch_out.is_torchvision(table, size, None) is expected
    assert not torch_out.is_torchvision(table, size, np.ones((size, size, 3), np.float32))


def test_no_other_variant_is_torchvisions():
    for name, table in variants.VARIANTS.items():
        size = min(IMAGE_SIZES[name], 224)
        assert torch_out.is_torchvision(table, size, None) is (name == 'torchvision')


# The example in the model card


def run_example(folder, monkeypatch, capsys, image='image.jpg') -> list[str]:
    """Run the Python code of a folder's README in the folder; returns the lines that it prints."""
    (code,) = re.findall(r'```python\n(.*?)```', (folder / 'README.md').read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, 'alexnet', raising=False)
    capsys.readouterr()
    exec(compile(code.replace('image.jpg', image), 'README.md', 'exec'), {})
    sys.modules.pop('alexnet', None)
    return capsys.readouterr().out.splitlines()


def save_image(path, height=50, width=40) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (9, 9, 3), np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    image.save(path, quality=95)


@pytest.mark.parametrize('ops', [OPS, 'decode|resize_short(30)|center_crop(28)'])
def test_the_example(make_net, tmp_path, monkeypatch, capsys, ops):
    net = make_net(**{'data.eval_ops': ops})
    torch_out.write(net, tmp_path / 'out')
    image = tmp_path / 'out' / 'image.jpg'
    save_image(image)
    lines = [line.split(' ', 1) for line in run_example(tmp_path / 'out', monkeypatch, capsys)]
    expected = net.predict(image)
    assert [name for _, name in lines] == [name for name, _ in expected]
    found = [float(percent.rstrip('%')) for percent, _ in lines]
    np.testing.assert_allclose(found, [100 * p for _, p in expected], atol=0.3)


@pytest.mark.parametrize('ops', [OPS, OPS.replace('decode', 'decode(stored)')])
def test_the_example_on_a_transparent_image(make_net, tmp_path, monkeypatch, capsys, ops):
    net = make_net(**{'data.eval_ops': ops})
    torch_out.write(net, tmp_path / 'out')
    noise = np.random.default_rng(3).integers(0, 256, (40, 50, 4), np.uint8)
    noise[..., 3] = np.where(noise[..., 3] < 128, 0, 255)
    Image.fromarray(noise).save(tmp_path / 'out' / 'image.png')
    lines = run_example(tmp_path / 'out', monkeypatch, capsys, 'image.png')
    expected = net.predict(tmp_path / 'out' / 'image.png')
    found = {name: float(percent.rstrip('%')) for percent, name in (x.split(' ', 1) for x in lines)}
    assert found.keys() == {name for name, _ in expected}
    np.testing.assert_allclose(
        [found[name] for name, _ in expected], [100 * p for _, p in expected], atol=0.3
    )


def test_class_names_that_are_not_utf8(make_net, tmp_path):
    net = dataclasses.replace(make_net(), class_names=['cat', 'bad\udcff\udcfe', '犬'])
    torch_out.write(net, tmp_path / 'out')
    config = json.loads((tmp_path / 'out' / 'config.json').read_text('utf-8'))
    assert config['label_names'] == ['cat', 'bad??', '犬']
    assert 'bad??' in (tmp_path / 'out' / 'README.md').read_text('utf-8')


@pytest.fixture(scope='module')
def torchvision():
    """Genuine torchvision."""
    return import_torchvision()


@pytest.mark.slow
def test_torchvisions_own_module(tmp_path, monkeypatch, capsys, torchvision):
    """At full size: torchvision makes no narrower net."""
    config = load_recipe('torchvision')
    config.num_classes = len(NAMES)
    model = variants.make_model(config)
    variables, out = lively_nets.lively(model.layers, 224), tmp_path / 'out'
    (tmp_path / 'config.json').write_text(config.to_json())
    torch_out.write(TrainedNet(str(tmp_path), 0, config, NAMES, model, variables), out)
    assert not (out / 'alexnet.py').exists()
    module = torchvision.models.alexnet(num_classes=len(NAMES)).eval()
    module.load_state_dict(load_file(out / 'model.safetensors'))  # strictly

    save_image(out / 'image.png', 256, 300)  # at 256 rows, nothing is resized
    images = lively_nets.images(224)
    images[0] = np.asarray(Image.open(out / 'image.png'))[16:240, 38:262]
    expected = lively_nets.logits_of(model.layers, variables, images)
    normalize = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        logits = module(normalize(torch.from_numpy(images).permute(0, 3, 1, 2) / 255))
    assert_within(logits, expected, 1e-5)
    lines = [line.split(' ', 1) for line in run_example(out, monkeypatch, capsys, 'image.png')]
    assert [name for _, name in lines] == [SHOWN[i] for i in np.argsort(-expected[0])[:5]]
