"""The model card, read as a hub would."""

import re

import pytest

from alexnet_jax.model import variants
from alexnet_jax.model.layers import Conv, Dense
from alexnet_jax.weights import card

yaml = pytest.importorskip('yaml')

TABLE = (Conv('conv1', 2, 1), Dense('fc2', 7))  # 8 + 2 * 4 * 7 + 7 = 71 parameters
NAMES = ['ant', 'bee', 'cat', 'dog', 'eel', 'fox', 'gnu']


def about(**values) -> dict:
    data = {'name': 'folder:animals', 'eval_split': 'validation', 'mean': 'image'}
    return {
        'class_names': NAMES,
        'image_size': 2,
        'eval_ops': 'decode|resize(2)',
        'config': {'variant': 'paper', 'edits': ('no_lrn', 'tanh'), 'data': data},
        'source': {'run': 'mine', 'step': 1200},
        'scores': {'top1': 0.54321, 'top5': 0.9, 'examples': 1234, 'step': 1200},
        **values,
    }


def text_of(license_name=None, is_torchvision=False, table=TABLE, **values) -> str:
    return card.to_text(table, about(**values), is_torchvision, license_name)


def front_matter(text: str) -> dict:
    _, head, _ = re.split(r'^---$', text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(head)


def section(text: str, title: str) -> str:
    return re.split(r'^## ', text, flags=re.MULTILINE)[1:][
        ['Use', 'Preprocessing', 'Evaluation', 'Classes', 'Source', 'Citation'].index(title)
    ].removeprefix(f'{title}\n\n')


def test_front_matter():
    found = front_matter(text_of())
    assert found['pipeline_tag'] == 'image-classification'
    assert 'image-classification' in found['tags']
    assert 'library_name' not in found
    assert 'license' not in found
    (model,) = found['model-index']
    (result,) = model['results']
    assert result['task'] == {'type': 'image-classification'}
    assert result['dataset'] == {
        'type': 'folder:animals',
        'name': 'folder:animals',
        'split': 'validation',
        'args': {'eval_ops': 'decode|resize(2)'},
    }
    assert result['metrics'] == [
        {'type': 'accuracy', 'name': 'top-1', 'value': 0.5432},
        {'type': 'accuracy', 'name': 'top-5', 'value': 0.9},
    ]


@pytest.mark.parametrize('name', ['apache-2.0', 'no: "yes" # 1\n- x'])
def test_a_license_that_was_given(name):
    assert front_matter(text_of(name))['license'] == name


def test_without_scores():
    text = text_of(scores={})
    assert 'model-index' not in front_matter(text)
    assert section(text, 'Evaluation').startswith('No evaluation')


def test_scores():
    lines = section(text_of(), 'Evaluation').splitlines()
    assert lines[0] == '| data | split | images | top-1 | top-5 |'
    assert lines[2] == '| `folder:animals` | `validation` | 1,234 | 54.32% | 90.00% |'


def test_no_top5_of_five_classes():
    text = text_of(class_names=NAMES[:5])
    (result,) = front_matter(text)['model-index'][0]['results']
    assert [metric['name'] for metric in result['metrics']] == ['top-1']
    assert 'top-5' not in section(text, 'Evaluation')


def test_introduction():
    text = text_of()
    assert '# AlexNet: paper, edited by no_lrn and tanh\n' in text
    assert '7 classes' in text
    assert 'the two towers of the 2012 paper' in text
    assert '71 parameters' in text


def test_every_variant_is_described():
    assert card.VARIANTS.keys() == variants.VARIANTS.keys()


def test_classes():
    assert '`ant`, `bee`, ' in section(text_of(), 'Classes')
    hostile = ['`code`', 'a\n## b', '<b>']
    assert "`'code'`, `a ## b`, `<b>`" in section(text_of(class_names=hostile), 'Classes')
    many = section(text_of(class_names=[f'class{i}' for i in range(1000)]), 'Classes')
    assert '`class49`, and 950 more' in many
    assert 'class50' not in many


def test_source():
    assert 'step 1,200 of the run `mine`' in section(text_of(), 'Source')
    source = {'name': 'a.caffemodel', 'size': 243862414, 'sha256': 'abc', 'as_published': True}
    found = section(text_of(source=source), 'Source')
    assert '`a.caffemodel` (243,862,414 bytes, SHA-256 `abc`), as published.' in found
    found = section(text_of(source=source | {'as_published': False}), 'Source')
    assert 'published' not in found


def test_preprocessing():
    found = section(text_of(), 'Preprocessing')
    assert '\n2. Resize to 2 x 2 pixels' in found
    assert 'subtracts the mean image' in found
    config = about()['config'] | {'data': about()['config']['data'] | {'mean': 'none'}}
    found = section(text_of(config=config), 'Preprocessing')
    assert 'Nothing is subtracted' in found
    found = section(text_of(config=config, table=variants.TORCHVISION), 'Preprocessing')
    assert 'normalizes' in found


def test_the_preset_of_torchvision():
    ops = 'decode|resize_short(250)|center_crop(224)'
    text = text_of(is_torchvision=True, table=variants.TORCHVISION, eval_ops=ops, image_size=224)
    assert 'preset(resize_size=250, crop_size=224)' in section(text, 'Use')
    assert 'alexnet.py' not in text
    assert 'differ' in section(text, 'Preprocessing')


@pytest.mark.parametrize(
    'ops', ['decode|torchvision(256, 224)', 'decode|resize_short(256, antialias)|center_crop(224)']
)
def test_pixels_that_are_those_of_torchvision_s_preset(ops):
    text = text_of(is_torchvision=True, table=variants.TORCHVISION, eval_ops=ops, image_size=224)
    assert 'to within one level' in section(text, 'Preprocessing')


@pytest.mark.parametrize('ops', ['decode|resize(224)', 'decode(stored)|center_crop(224)'])
def test_ops_that_torchvision_s_preset_does_not_have(ops):
    text = text_of(is_torchvision=True, table=variants.TORCHVISION, eval_ops=ops, image_size=224)
    use = section(text, 'Use')
    assert 'preset' not in use
    assert ('from torch import nn' in use) == ('interpolate' in use) == ('resize' in ops)
    assert ('top : top + 224' in use) == ('crop' in ops)
    assert 'normalize(x / 255, mean, std)' in use
    assert 'differently' in section(text, 'Preprocessing')


def test_citation():
    assert 'krizhevsky2012imagenet' in section(text_of(), 'Citation')
