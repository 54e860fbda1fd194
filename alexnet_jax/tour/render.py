"""The page: the numbers of `facts`, set in the templates beside this file."""

import json
import math
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from alexnet_jax.drawing.figures import PALETTE
from alexnet_jax.tour import images
from alexnet_jax.tour.activations import Section
from alexnet_jax.tour.code_names import code_of
from alexnet_jax.tour.facts import is_first, towers_shown
from alexnet_jax.tour.numbers import Numbers
from alexnet_jax.tour.subject import Subject
from alexnet_jax.tour.texts import Texts

FOLDER = Path(__file__).parent
INPUT_CODE = 'alexnet_jax/data/ops/chain.py: apply_ops'
LOG_HEIGHT = 190  # of the drawing of gradients, in its own units


def page(subject: Subject, sections: list[Section], facts: dict[str, Any], language: str) -> str:
    """Return the page as HTML.

    Args:
      subject: The picture and the net.
      sections: The network's sections for that picture.
      facts: What `facts.gather` returns for them.
      language: A language of `texts.LANGUAGES`.
    """
    t, numbers = Texts(language), Numbers(language)
    maps = images.Maps()
    drawn = _maps(maps, subject, sections, facts['towers'])
    drawing = {
        'maps': drawn,
        'colors': {
            'positive': images.color_table(images.POSITIVE),
            'signed': images.color_table(images.SIGNED),
        },
        'words': {'fewer': t('show_fewer')},
    }
    values = {
        'language': language,
        'facts': facts,
        'run': subject.run,
        'step': subject.step,
        'eval_ops': subject.eval_ops,
        'mean': _mean(subject),
        'images': _images(subject, sections, facts),
        'pixels': Markup(' class="pixels"') if max(subject.image.shape) <= images.SMALL else '',
        'drawing_maps': drawn,
        'section_sizes': {s.info.name: numbers.count(s.output.size) for s in sections},
        'palette': PALETTE,
        'slices': images.slices,
        'css': Markup(_read('page.css')),
        'js': Markup(_read('page.js')),
        'data': Markup(_json(_plain({**facts, 'drawing': drawing}))),
        'packed': maps.pack(),
        **_formats(t, numbers),
        **_code_names(facts),
        **_gradient_lines(facts['gradients'], numbers),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template('page.html').render(values)


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding='utf-8')


def _maps(
    maps: images.Maps, subject: Subject, sections: list[Section], towers: int
) -> dict[str, dict[str, Any]]:
    """Add the maps of the input and of every section; returns where they are, by name."""
    colors = {'order': [[0, 1, 2]], 'labels': 'RGB'}
    drawn = {'input': maps.add(subject.centered[0], 1) | colors}
    for section in sections:
        drawn[section.info.name] = maps.add(section.output, towers_shown(section, towers))
    return drawn


def _formats(t: Texts, numbers: Numbers) -> dict[str, Any]:
    """The functions by which the templates write texts and numbers."""

    def class_name(found: dict[str, Any]) -> str:
        return found['name'] or t('class_number', number=found['label'])

    def answers(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                'name': class_name(found),
                'value': found['probability'],
                'shown': numbers.percent(found['probability']),
            }
            for found in classes
        ]

    def neurons(bars: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                'name': t('neuron', number=bar['neuron']),
                'value': bar['value'],
                'shown': numbers.num(bar['value']),
            }
            for bar in bars
        ]

    return {
        't': t,
        'definition': t.definition,
        'explain': t.explain,
        'num': numbers.num,
        'paren': numbers.paren,
        'signed': numbers.signed,
        'percent': numbers.percent,
        'count': numbers.count,
        'root': math.sqrt,
        'class_name': class_name,
        'answers': answers,
        'neurons': neurons,
    }


def _code_names(facts: dict[str, Any]) -> dict[str, Any]:
    """The functions by which the templates name the code of a section, and of what it receives."""
    sections = facts['sections']

    def code_before(place: int) -> str:
        return code_of(sections[place - 1]['kind']) if place else INPUT_CODE

    names = [section['name'] for section in sections]
    pool = names.index(facts['pooling']['name']) if facts['pooling'] else 0
    return {
        'code_of': code_of,
        'code_before': code_before,
        'code_before_pool': code_before(pool),
    }


def _mean(subject: Subject) -> str:
    if subject.config.data.mean == 'none':
        return 'none'
    return 'gray' if subject.run is None else 'image'


def _images(subject: Subject, sections: list[Section], facts: dict[str, Any]) -> dict[str, Any]:
    augmentation, pooling = facts['augmentation'], facts['pooling']
    original = augmentation['original']
    found: dict[str, Any] = {
        'seen': images.uri(subject.image),
        'mean': images.uri(np.clip(subject.mean.round(), 0, 255).astype(np.uint8)),
        'original': images.uri(original),
        'mirrored': images.uri(np.ascontiguousarray(original[:, ::-1])),
        'height': original.shape[0],
        'width': original.shape[1],
        'versions': [images.uri(version) for version in augmentation['versions']],
        'shifted': [images.uri(version) for version in augmentation['shifted']],
        'filters': None,
    }
    first = next((section for section in sections if section.info.kernel), None)
    if first and is_first(first):
        kernel = subject.params[first.info.name]['kernel']
        found['filters'] = {
            'name': first.info.name,
            'uris': images.filters(kernel, towers_shown(first, facts['towers'])),
        }
    if pooling:
        found['pooling'] = {
            key: images.png(images.colored(pooling[key])) for key in ('before', 'max', 'average')
        }
    if facts['dropout']:
        found['masks'] = [images.mask_image(mask) for mask in facts['dropout']['masks']]
    return found


def _gradient_lines(gradients: dict[str, dict[str, float]], numbers: Numbers) -> dict[str, Any]:
    """The curves of the gradients, on a logarithmic scale whose lines are powers of ten."""
    layers = list(next(iter(gradients.values())))
    norms = [norm for row in gradients.values() for norm in row.values() if norm > 0]
    top, bottom = math.ceil(math.log10(max(norms))), math.floor(math.log10(min(norms)))
    bottom = min(bottom, top - 1)

    def x(place: int) -> float:
        return round(10 + 280 * place / max(1, len(layers) - 1), 1)

    def y(value: float) -> float:
        power = math.log10(value) if value > 0 else bottom
        return round(LOG_HEIGHT * (top - power) / (top - bottom), 1)

    step = max(1, (top - bottom) // 8)
    return {
        'gradient_layers': layers,
        'gradient_x': x,
        'gradient_ticks': [
            {'y': y(10.0**power), 'label': numbers.power_of_ten(power)}
            for power in range(top, bottom - 1, -step)
        ],
        'gradient_lines': [
            {'points': ' '.join(f'{x(i)},{y(row[layer])}' for i, layer in enumerate(layers))}
            for row in gradients.values()
        ],
    }


def _plain(value: Any) -> Any:
    """The facts without arrays, which are drawn only, and with floats that float32 tells apart."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not _is_drawn(v)}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return float(f'{value:.9g}') if isinstance(value, float) else value


def _is_drawn(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], np.ndarray)
    )


def _json(value: Any) -> str:
    """JSON that may stand in a script: no '<' ends it."""
    return json.dumps(value, ensure_ascii=False, separators=(',', ':')).replace('<', '\\u003c')
