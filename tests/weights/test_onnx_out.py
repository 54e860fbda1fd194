"""Exported graphs in onnxruntime, against the Flax module."""

import dataclasses
import json

import lively_nets
import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import assert_within
from onnx import numpy_helper

from alexnet_jax.model.edits import EDITS
from alexnet_jax.model.layers import LRN, Dropout
from alexnet_jax.model.shapes import layer_infos
from alexnet_jax.model.variants import VARIANTS
from alexnet_jax.weights import layout, onnx_out

LIMIT = 1e-5  # of the largest logit
SEEN = 3e-3  # what a mistake comes to, at least

IN_PAPER = [
    edit for edit, change in EDITS.items() if change(VARIANTS['paper']) != VARIANTS['paper']
]
EDITED = [
    pytest.param(
        name, edit, marks=[pytest.mark.exhaustive] * (name != 'paper' and edit in IN_PAPER)
    )
    for name in ('paper', 'cifar10_18pct', 'digits')
    for edit, change in EDITS.items()
    if change(VARIANTS[name]) != VARIANTS[name]
]


class Case:
    """A table with lively weights and a mean image, and what Flax makes of three images."""

    def __init__(self, variant: str, *edits: str):
        table = VARIANTS[variant]
        for edit in edits:
            table = EDITS[edit](table)
        self.table, self.size = lively_nets.narrow(table), lively_nets.size_of(variant)
        self.variables = lively_nets.lively(self.table, self.size)
        self.tensors = layout.to_torch(self.table, self.size, self.variables)
        shape = (self.size, self.size, 3)
        self.mean = np.random.default_rng(2).uniform(0, 255, shape).astype(np.float32)
        self.images = lively_nets.images(self.size)

    def model(self, table=None, tensors=None, mean='mean') -> onnx.ModelProto:
        mean = self.mean if isinstance(mean, str) else mean
        table, tensors = table or self.table, tensors or self.tensors
        return onnx_out.to_model(table, self.size, tensors, mean, {})

    def logits(self) -> np.ndarray:
        return lively_nets.logits_of(self.table, self.variables, self.images - self.mean)

    def error(self, model: onnx.ModelProto) -> float:
        """The largest difference from Flax, as a fraction of the largest logit."""
        wanted = self.logits()
        (found,) = run(model, self.images, 'logits')
        return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def run(model: onnx.ModelProto, images: np.ndarray, *names: str) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider']
    )
    return session.run(list(names), {'image': images})


def check(case: Case) -> None:
    model = case.model()
    onnx.checker.check_model(model, full_check=True)
    wanted = case.logits()
    assert np.ptp(wanted, axis=0).max() > 1e-3 * np.abs(wanted).max()  # the images differ
    logits, probabilities = run(model, case.images, 'logits', 'probabilities')
    assert_within(logits, wanted, LIMIT)
    powers = np.exp(wanted - wanted.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)
    (first,) = run(model, case.images[:1], 'logits')
    assert_within(first, wanted[:1], LIMIT)


@pytest.mark.parametrize('variant', VARIANTS)
def test_variants(variant):
    check(Case(variant))


@pytest.mark.parametrize(('variant', 'edit'), EDITED)
def test_edits(variant, edit):
    check(Case(variant, edit))


def alpha_as_it_stands(case):
    model = case.model()
    for node in model.graph.node:
        if node.op_type == 'LRN':
            (alpha,) = (a for a in node.attribute if a.name == 'alpha')
            alpha.f /= 5
    return model


def padding_counted(case, counted=1):
    model = case.model()
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == 'count_include_pad':
                attribute.i = counted
    return model


def positions_mirrored(case):
    weight = np.ascontiguousarray(case.tensors['local3.weight'][:, ::-1])
    return case.model(tensors=case.tensors | {'local3.weight': weight})


def changed(case, kind, **values):
    return tuple(
        dataclasses.replace(layer, **values) if isinstance(layer, kind) else layer
        for layer in case.table
    )


def features_of_pixels_in_order(case):
    """fc6's weights as Flax has them, whose inputs are HWC."""
    return {'fc6.weight': case.variables['params']['fc6']['kernel'].T}


MISTAKES = {
    'alpha': ('digits', alpha_as_it_stands),
    'norms across towers': ('paper', lambda case: case.model(changed(case, LRN, groups=1))),
    'no mean': ('digits', lambda case: case.model(mean=None)),
    'padding in means': ('cifar10_18pct', padding_counted),
    'filters at other positions': ('cifar10_13pct', positions_mirrored),
    'dropout not scaled': (
        'paper',
        lambda case: case.model(changed(case, Dropout, scale_at_test=False)),
    ),
    'HWC': (
        'digits',
        lambda case: case.model(tensors=case.tensors | features_of_pixels_in_order(case)),
    ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_are_seen(mistake):
    """Each is large, so the tests above would find it."""
    variant, make = MISTAKES[mistake]
    case = Case(variant)
    assert case.error(make(case)) >= SEEN


def test_a_layer_s_output_bears_its_name():
    case = Case('digits')
    model = case.model()
    names = ['norm1', 'pool2', 'relu5', 'fc6', 'relu7']
    for name in names:
        kind = onnx.TensorProto.FLOAT
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    infos = [info.name for info in layer_infos(case.table, case.size)]
    for name, found in zip(names, run(model, case.images, *names), strict=True):
        layers = case.table[: infos.index(name) + 1]
        wanted = lively_nets.logits_of(layers, case.variables, case.images - case.mean)
        maps = wanted.ndim == 4
        assert_within(found, wanted.transpose(0, 3, 1, 2) if maps else wanted, LIMIT)


def test_initializers_are_the_tensors():
    case = Case('digits', 'no_tower_communication')
    found = {t.name: numpy_helper.to_array(t) for t in case.model().graph.initializer}
    np.testing.assert_array_equal(found.pop('mean'), case.mean.transpose(2, 0, 1))
    back = layout.from_torch(case.table, case.size, found)
    assert back['params'].keys() == case.variables['params'].keys()
    for name, params in case.variables['params'].items():
        for kind, values in params.items():
            np.testing.assert_array_equal(back['params'][name][kind], values)


def test_versions_and_metadata():
    case = Case('digits')
    metadata = {'class_names': ['ä', '"b"'], 'image_size': 28, 'scores': {}}
    model = onnx_out.to_model(case.table, case.size, case.tensors, None, metadata)
    assert (model.ir_version, [o.version for o in model.opset_import]) == (8, [17])
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == metadata
    assert [t.name for t in model.graph.initializer] == list(case.tensors)
