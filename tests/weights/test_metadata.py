"""What an export says about itself."""

import json

import numpy as np
import pytest
from trained_runs import save_run

from alexnet_jax.config import default_config
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model import variants
from alexnet_jax.model.layers import Dense
from alexnet_jax.weights.metadata import describe

PARAMS = {'fc': {'kernel': np.zeros((3, 2), np.float32), 'bias': np.zeros(2, np.float32)}}


@pytest.fixture
def net(tmp_path, monkeypatch):
    """net(**values): a run with these values in its config."""
    monkeypatch.setitem(variants.VARIANTS, 'tiny', (Dense('fc', 2),))

    def make(**values):
        config = default_config()
        config.variant, config.num_classes, config.image_size = 'tiny', 2, 1
        config.update_from_flattened_dict(values)
        save_run(tmp_path / 'run', config, ['a', 'b'], {10: ({'params': PARAMS}, 0.5)})
        return TrainedNet.load(tmp_path / 'run')

    return make


def test_describe(net):
    found = json.loads(json.dumps(describe(net())))
    assert found.keys() == {
        *('class_names', 'image_size', 'eval_ops', 'config', 'source', 'scores')
    }
    assert (found['class_names'], found['image_size']) == (['a', 'b'], 1)
    assert found['eval_ops'] == found['config']['data']['eval_ops'] == 'decode'
    assert found['source'] == {'run': 'run', 'step': 10}
    assert found['scores']['top1'] == 0.5


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('folder:/home/ann/flowers/', 'folder:flowers'),
        ('prepared:~/sets/flowers-256', 'prepared:flowers-256'),
        ('folder:data/flowers', 'folder:data/flowers'),
        ('tfds:cifar10:3.0.2', 'tfds:cifar10:3.0.2'),
        ('digits', 'digits'),
    ],
)
def test_nothing_of_the_machine(net, name, said):
    values = {'data.name': name, 'data.data_dir': '/home/ann/tfds', 'init_from': '/home/ann/runs/a'}
    config = describe(net(**values))['config']
    assert config['data']['name'] == said
    assert (config['data']['data_dir'], config['init_from']) == ('tfds', 'a')


def test_a_run_s_dtype_is_the_one_that_it_trained_in(net):
    trained = TrainedNet.load(net(dtype='bfloat16').workdir, dtype='float32')
    assert trained.config.dtype == 'float32'
    assert describe(trained)['config']['dtype'] == 'bfloat16'


def test_the_current_folder_has_a_name(net, monkeypatch):
    monkeypatch.chdir(net().workdir)
    assert describe(TrainedNet.load('.'))['source'] == {'run': 'run', 'step': 10}


def test_where_a_converted_run_came_from(net):
    trained = net()
    source = {'name': 'bvlc_alexnet.caffemodel', 'sha256': 'abc'}
    with open(f'{trained.workdir}/source.json', 'w') as file:
        json.dump(source, file)
    assert describe(trained)['source'] == source
