"""The model card of an exported net: the README.md of a folder on a model hub."""

import json
from collections.abc import Iterable
from typing import Any

from alexnet_jax.model.layers import Normalize, Table
from alexnet_jax.model.shapes import layer_infos
from alexnet_jax.weights import preprocessing

VARIANTS = {
    'course': 'the network of the 2012 paper, as one tower',
    'paper': 'the two towers of the 2012 paper',
    'source_2012': "net 145 of the authors' source code of 2012",
    'bvlc': "Caffe's `bvlc_alexnet`",
    'caffenet': "Caffe's `bvlc_reference_caffenet`, which pools before it normalizes",
    'torchvision': "torchvision's `alexnet`, after Krizhevsky 2014 (arXiv:1404.5997)",
    'alexnet_bn': "the two towers with batch normalization, after NVIDIA's Caffe",
    'cifar10_18pct': "the authors' 18% network for CIFAR-10",
    'cifar10_80sec': "the authors' 26% network for CIFAR-10",
    'cifar10_13pct': "the authors' 13% network for CIFAR-10, with locally connected layers",
    'cifar10_11pct': "the authors' 11% network for CIFAR-10, with locally connected layers",
    'lenet5': 'LeNet-5 (LeCun et al. 1998) on color images, with a softmax',
    'digits': 'a narrow AlexNet for handwritten digits',
}
LISTED = 50  # class names; config.json has all of them

_EXAMPLE = """\
import json

import numpy as np
import torch
from PIL import {pillow}
from safetensors.torch import load_file
from torch import nn

from alexnet import AlexNet

net = AlexNet().eval()
net.load_state_dict(load_file('model.safetensors'))

{opened}
x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # uint8 [1, 3, height, width]
{preprocess}"""

_TORCHVISION_EXAMPLE = """\
import json

import torch
import torchvision
from PIL import {pillow}
from safetensors.torch import load_file
from torch import nn

net = torchvision.models.alexnet(num_classes={classes}).eval()
net.load_state_dict(load_file('model.safetensors'))

{opened}
"""

_PRESET = """\
preset = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.transforms  # downloads nothing
preprocess = preset(resize_size={resize}, crop_size={size})
x = preprocess(image)[None]
"""

_NO_PRESET = """\
x = torchvision.transforms.functional.pil_to_tensor(image)[None]
{preprocess}
mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
x = torchvision.transforms.functional.normalize(x / 255, mean, std)
"""

_PREDICTION = """
with torch.no_grad():
    logits = net(x)
probabilities = logits.softmax(1)[0]

with open('config.json') as file:
    config = json.load(file)
names, words = config['label_names'], config.get('label_descriptions', {})
for probability, name in sorted(zip(probabilities.tolist(), names), reverse=True)[:5]:
    print(f'{probability:.1%} {words.get(name, name)}')"""

CITATION = """\
@inproceedings{krizhevsky2012imagenet,
  title = {ImageNet Classification with Deep Convolutional Neural Networks},
  author = {Krizhevsky, Alex and Sutskever, Ilya and Hinton, Geoffrey E.},
  booktitle = {Advances in Neural Information Processing Systems 25},
  year = {2012}
}"""


def title_of(config: dict[str, Any]) -> str:
    """Return a network's title: 'paper, edited by no_lrn and tanh'."""
    edits = f', edited by {" and ".join(config["edits"])}' if config['edits'] else ''
    return config['variant'] + edits


def to_text(
    layers: Table, about: dict[str, Any], is_torchvision: bool, license_name: str | None
) -> str:
    """Return the model card, in Markdown.

    Args:
      layers: The table.
      about: What `metadata.describe` returns.
      is_torchvision: Whether the weights are for torchvision.models.alexnet.
      license_name: The license of the weights; None if not given.
    """
    sections = {
        'Use': _use(layers, about, is_torchvision),
        'Preprocessing': _preprocessing(layers, about, is_torchvision),
        'Evaluation': _evaluation(about),
        'Classes': _classes(about['class_names']),
        'Source': _source(about['source']),
        'Citation': _fenced(CITATION, 'bibtex'),
    }
    parts = [
        _front_matter(about, license_name),
        f'# AlexNet: {title_of(about["config"])}',
        _introduction(layers, about),
        *(f'## {title}\n\n{text}' for title, text in sections.items()),
    ]
    return '\n\n'.join(parts) + '\n'


def _front_matter(about: dict[str, Any], license_name: str | None) -> str:
    """The YAML that hubs read; strings are quoted as in JSON, a subset of YAML."""
    lines = ['pipeline_tag: image-classification', 'tags:', '- image-classification', '- alexnet']
    if license_name:
        lines.insert(0, f'license: {json.dumps(license_name)}')
    if scores := _scores(about):
        data = about['config']['data']
        lines += [
            'model-index:',
            f'- name: {json.dumps(title_of(about["config"]))}',
            '  results:',
            '  - task:',
            '      type: image-classification',
            '    dataset:',
            f'      type: {json.dumps(data["name"])}',
            f'      name: {json.dumps(data["name"])}',
            f'      split: {json.dumps(data["eval_split"])}',
            '      args:',
            f'        eval_ops: {json.dumps(about["eval_ops"])}',
            '    metrics:',
        ]
        for name, value in scores.items():
            lines += ['    - type: accuracy', f'      name: {name}', f'      value: {value:.4f}']
    return '\n'.join(['---', *lines, '---'])


def _scores(about: dict[str, Any]) -> dict[str, float]:
    """Accuracies by name; top-5 only if there are more than five classes."""
    keys = (
        {'top-1': 'top1', 'top-5': 'top5'} if len(about['class_names']) > 5 else {'top-1': 'top1'}
    )
    return {name: about['scores'][key] for name, key in keys.items() if key in about['scores']}


def _introduction(layers: Table, about: dict[str, Any]) -> str:
    variant = about['config']['variant']
    infos = list(layer_infos(layers, about['image_size']))
    size, classes = about['image_size'], len(about['class_names'])
    known = VARIANTS.get(variant, 'a custom network')
    parameters = sum(info.parameters for info in infos)
    return (
        f'An image classifier for {classes:,} classes. The network is '
        f'`{title_of(about["config"])}` of alexnet_jax: {known}. It has {parameters:,} parameters '
        f'and takes images of {size} x {size} pixels.'
    )


def _use(layers: Table, about: dict[str, Any], is_torchvision: bool) -> str:
    steps = preprocessing.explain(about['eval_ops'])
    opened = '\n'.join(preprocessing.opened(about['eval_ops']))
    image = {
        'opened': opened,
        'pillow': 'Image, ImageOps' if 'ImageOps' in opened else 'Image',
    }
    lines = [line for step in steps for line in step.code]
    if is_torchvision:
        *_, head = layer_infos(layers, about['image_size'])
        example = _TORCHVISION_EXAMPLE.format(classes=head.output[-1], **image)
        if _fits_preset(about['eval_ops']):
            resize = next(step.resize for step in steps if step.resize)
            example += _PRESET.format(resize=resize, size=about['image_size'])
        else:
            example += _NO_PRESET.format(preprocess='\n'.join(lines))
        needs = 'torch torchvision safetensors pillow'
    else:
        example = _EXAMPLE.format(preprocess='\n'.join([*lines, '']), **image)
        needs = 'torch safetensors pillow numpy'
    if 'nn.functional' not in example:
        example = example.replace('from torch import nn\n', '')
    files = ['`model.safetensors` contains the weights', '`config.json` the classes']
    if not is_torchvision:
        files.append('`alexnet.py` the module, which needs only PyTorch')
    return (
        f'`pip install {needs}`, then, in this folder:\n\n'
        f'{_fenced(example + _PREDICTION, "python")}\n\n'
        f'{", ".join(files[:-1])} and {files[-1]}. The metadata of `model.safetensors` holds the '
        f'complete configuration of the run, as JSON.'
    )


def _preprocessing(layers: Table, about: dict[str, Any], is_torchvision: bool) -> str:
    steps = [step.words for step in preprocessing.explain(about['eval_ops'])]
    if is_torchvision:
        steps.append("Divide by 255 and normalize with ImageNet's mean and deviation.")
        ending = _preset_note(about['eval_ops'])
    else:
        size, inside = about['image_size'], _inside(layers, about['config'])
        ending = (
            f'The module takes RGB in 0 .. 255, `uint8` or float, [N, 3, {size}, {size}], and '
            f'returns logits. {inside}'
        )
    numbered = '\n'.join(f'{number}. {step}' for number, step in enumerate(steps, 1))
    return f'The network was evaluated with `{about["eval_ops"]}`:\n\n{numbered}\n\n{ending}'


def _inside(layers: Table, config: dict[str, Any]) -> str:
    if config['data']['mean'] != 'none':
        return 'It subtracts the mean image itself.'
    if any(isinstance(layer, Normalize) for layer in layers):
        return 'It normalizes the pixels itself.'
    return 'Nothing is subtracted from the pixels.'


def _fits_preset(eval_ops: str) -> bool:
    """Whether torchvision's preset resizes and crops as these ops do, or nearly so."""
    _, *ops = (op.strip().partition('(')[0] for op in eval_ops.split('|'))
    return ops in (['torchvision'], ['resize_short', 'center_crop'])


def _preset_note(eval_ops: str) -> str:
    if not _fits_preset(eval_ops):
        return "torchvision's preset resizes and crops differently."
    if 'torchvision(' in eval_ops or 'antialias' in eval_ops:
        return 'The preset does all of this; its pixels are these to within one level of 255.'
    return 'The preset does the same, except that its resizing is antialiased: its pixels differ.'


def _evaluation(about: dict[str, Any]) -> str:
    scores, data = _scores(about), about['config']['data']
    if not scores:
        return 'No evaluation of these weights is recorded.'
    examples = about['scores'].get('examples')
    header = ['data', 'split', 'images', *scores]
    row = [
        _code(data['name']),
        _code(data['eval_split']),
        f'{examples:,}' if examples else '',
        *(f'{100 * value:.2f}%' for value in scores.values()),
    ]
    return (
        f'{_row(header)}\n{_row("---" for _ in header)}\n{_row(row)}\n\n'
        f'Accuracy, with each image counted once and the preprocessing above.'
    )


def _row(cells: Iterable[str]) -> str:
    return f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in cells)} |'


def _classes(names: list[str]) -> str:
    shown = ', '.join(map(_code, names[:LISTED]))
    if len(names) <= LISTED:
        return f'In output order: {shown}.'
    rest = f'and {len(names) - LISTED:,} more: `label_names` in `config.json`.'
    return f'In output order: {shown}, {rest}'


def _source(source: dict[str, Any]) -> str:
    if 'run' in source:
        return (
            f'Trained with alexnet_jax: step {source["step"]:,} of the run {_code(source["run"])}.'
        )
    published = ', as published' if source.get('as_published') else ''
    return (
        f'Converted by alexnet_jax from {_code(source["name"])} ({source["size"]:,} bytes, SHA-256 '
        f'`{source["sha256"]}`){published}.'
    )


def _code(text: str) -> str:
    """A name from a user, with its Markdown neutralized."""
    return f'`{" ".join(text.replace("`", chr(39)).split())}`'


def _fenced(text: str, language: str) -> str:
    return f'```{language}\n{text}\n```'
