"""A StableHLO export, run by a process that has neither this package nor Flax."""

import json
import re
import subprocess
import sys

import jax
import lively_nets
import numpy as np
import pytest

from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.edits import EDITS
from alexnet_jax.model.layers import Weighted
from alexnet_jax.model.variants import VARIANTS
from alexnet_jax.weights import hlo
from alexnet_jax.weights.metadata import describe

ELSEWHERE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('alexnet_jax', 'flax'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
from jax import export

model, images, output = sys.argv[1:]
exported = export.deserialize(open(model, 'rb').read())
images = np.load(images)
found = {'platforms': exported.platforms}
for n in (1, 3, 5):
    scores = exported.call(images[:n])
    found |= {f'{name}{n}': np.asarray(values) for name, values in scores.items()}
np.savez(output, **found)
"""


@pytest.mark.slow
def test_elsewhere(tmp_path):
    net = TrainedNet.load(lively_nets.save_digits_run(tmp_path / 'run'), dtype='float32')
    hlo.write(net, tmp_path / 'net')
    images = lively_nets.images(28, count=5)
    np.save(tmp_path / 'images.npy', images)
    command = [sys.executable, '-c', ELSEWHERE, 'net/model.stablehlo', 'images.npy', 'found.npz']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    found = np.load(tmp_path / 'found.npz')
    assert list(found['platforms']) == ['cpu', 'cuda', 'tpu']
    wanted = net.probabilities(images)
    logits = net.features(images, layer='fc8')
    assert np.ptp(wanted, axis=0).max() > 0.01  # the images differ
    for n in (1, 3, 5):
        np.testing.assert_allclose(found[f'probabilities{n}'], wanted[:n], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found[f'logits{n}'], logits[:n], rtol=1e-5, atol=1e-5)
    metadata = json.loads((tmp_path / 'net' / 'metadata.json').read_text())
    assert metadata == json.loads(json.dumps(describe(net)))


@pytest.mark.parametrize(
    ('variant', 'edit'),
    [
        *((v, 'no_tower_communication') for v in ('paper', 'alexnet_bn', 'cifar10_18pct')),
        ('torchvision', 'no_tower_communication'),
        ('cifar10_13pct', 'no_lrn'),  # locally connected layers
    ],
)
def test_every_layer_takes_a_symbolic_batch_size(variant, edit):
    size = lively_nets.size_of(variant)
    table = EDITS[edit](lively_nets.narrow(VARIANTS[variant]))
    model, mean = AlexNet(table), np.zeros((size, size, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), mean[None])
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), variables)
    exported = hlo.to_exported(model, zeros, mean)
    assert str(exported.in_avals[0]) == f'uint8[n,{size},{size},3]'
    outputs = table[-1].features
    assert [str(a) for a in exported.out_avals] == [f'float32[n,{outputs}]'] * 2
    # The default of GPUs is TF32, of TPUs bfloat16.
    products = re.findall('.*stablehlo.(?:convolution|dot_general).*', exported.mlir_module())
    assert len(products) >= sum(isinstance(layer, Weighted) for layer in table)
    assert all('HIGHEST' in line and 'DEFAULT' not in line for line in products)
    assert not exported.disabled_safety_checks
    assert not exported.ordered_effects
