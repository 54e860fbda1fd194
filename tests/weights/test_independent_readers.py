"""Logits of converted weights against those of OpenCV, ONNX Runtime and torchvision.

Each comparison is seen to fail for a network that is nearly the same.
"""

from pathlib import Path

import cv2
import jax
import numpy as np
import onnxruntime
import pytest
import torch
from etils import epath
from foreign_files import (
    CAFFE_NETS,
    TORCHVISION,
    caffe_net,
    lively_tensors,
    prototxt,
    save,
    zoo_net,
)
from helpers import assert_within

from alexnet_jax import convert
from alexnet_jax.benchmark.torchvision_baseline import import_torchvision
from alexnet_jax.data import statistics
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.run import checkpoint
from alexnet_jax.saved_config import read_config
from alexnet_jax.weights import layout, reading

MEAN = np.float32([122.67891434, 116.66876762, 104.00698793])  # RGB; Caffe's example


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    for name, table in {**CAFFE_NETS, 'torchvision': TORCHVISION}.items():
        monkeypatch.setitem(variants.VARIANTS, name, table)


def converted(path: Path) -> str:
    """The run that becomes of a file."""
    convert.convert(reading.read(path), str(path.with_name('run')))
    return str(path.with_name('run'))


def images(size: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (1, size, size, 3), np.uint8)


def logits(run: str, pixels: np.ndarray, table=None, change=lambda params: params) -> np.ndarray:
    """What a network, by default the run's own, computes of RGB pixels with the run's weights."""
    config = read_config(run)
    if config.data.mean == 'image':
        mean = statistics.load(epath.Path(run) / 'statistics.npz').center(config.image_size)
        pixels = pixels - mean
    model = AlexNet(table or variants.VARIANTS[config.variant])
    params = change(checkpoint.load_variables(run, 0)['params'])
    return np.asarray(jax.jit(model.apply)({'params': params}, np.float32(pixels)))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """As a fraction of the largest."""
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize('v1', [True, False], ids=['v1', 'v2'])
@pytest.mark.parametrize('variant', CAFFE_NETS)
def test_caffe_in_opencv(variant, v1, tmp_path):
    table, pixels = CAFFE_NETS[variant], images(227)
    data = caffe_net(table, 227, lively_tensors(table, 227), v1)
    file = save(tmp_path / 'net.caffemodel', data)
    (tmp_path / 'deploy.prototxt').write_text(prototxt(table, 227))
    net = cv2.dnn.readNetFromCaffe(str(tmp_path / 'deploy.prototxt'), str(file))
    bgr = np.ascontiguousarray((pixels - MEAN)[..., ::-1].transpose(0, 3, 1, 2))
    net.setInput(bgr)
    expected = net.forward('fc8')
    run = converted(file)
    assert read_config(run).variant == variant
    assert_within(logits(run, pixels), expected, 1e-5)
    if not v1:  # the same numbers
        return

    (other,) = CAFFE_NETS.keys() - {variant}
    assert difference(logits(run, pixels, CAFFE_NETS[other]), expected) > 0.05

    def left_as_bgr(params):
        kernel = params['conv1']['kernel'][:, :, ::-1]
        return params | {'conv1': params['conv1'] | {'kernel': kernel}}

    assert difference(logits(run, pixels, change=left_as_bgr), expected) > 0.05


@pytest.mark.slow
def test_zoo_in_onnxruntime(tmp_path):
    """The zoo's graph takes 224 pixels; given 227, it is Caffe's net, and so is the run."""
    table, pixels = CAFFE_NETS['bvlc'], images(227)
    tensors = lively_tensors(table, 227)
    run = converted(save(tmp_path / 'zoo.onnx', zoo_net(table, 227, tensors)))
    model = zoo_net(table, 227, tensors, pixels=227)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    bgr = np.ascontiguousarray((pixels - MEAN)[..., ::-1].transpose(0, 3, 1, 2))
    (expected,) = session.run(['fc8_1'], {'data_0': bgr})
    assert_within(logits(run, pixels), expected, 1e-5)


@pytest.fixture(scope='module')
def torchvision():
    return import_torchvision()


def genuine(torchvision) -> torch.nn.Module:
    """torchvision's module with few hidden features, and lively weights."""
    with torch.device('meta'):
        net = torchvision.models.alexnet()
        net.classifier[1] = torch.nn.Linear(9216, 64)
        net.classifier[4] = torch.nn.Linear(64, 64)
        net.classifier[6] = torch.nn.Linear(64, 1000)
    tensors = lively_tensors(TORCHVISION, 224)
    names = layout.torchvision_names()
    state = {theirs: torch.from_numpy(tensors[ours]) for theirs, ours in names.items()}
    net.load_state_dict(state, assign=True)
    return net.eval()


@pytest.mark.slow
@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_torchvision_in_torchvision(torchvision, legacy, tmp_path):
    net, pixels, path = genuine(torchvision), images(224), tmp_path / 'alexnet.pth'
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    fed = ((np.float32(pixels) / 255 - mean) / std).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = net(torch.from_numpy(np.ascontiguousarray(fed))).numpy()
    run = converted(path)
    assert_within(logits(run, pixels), expected, 1e-5)

    def flattened_as_hwc(params):
        kernel = net.classifier[1].weight.detach().numpy().T
        return params | {'fc6': params['fc6'] | {'kernel': kernel}}

    assert difference(logits(run, pixels, change=flattened_as_hwc), expected) > 0.1


@pytest.mark.slow
def test_names_and_shapes_of_the_genuine_net(torchvision, monkeypatch):
    monkeypatch.undo()  # full size
    with torch.device('meta'):
        expected = {k: tuple(v.shape) for k, v in torchvision.models.alexnet().state_dict().items()}
    shapes = layout.tensor_shapes(variants.VARIANTS['torchvision'], 224)
    names = layout.torchvision_names()
    assert {theirs: shapes[ours] for theirs, ours in names.items()} == expected
