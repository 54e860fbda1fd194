"""What devices send: counted in programs, predicted by hand, and both for a compiled step."""

import dataclasses

import pytest
from fake_data import TINY, config_of
from helpers import ROOT, assert_has

from alexnet_jax.benchmark import collectives
from alexnet_jax.cli import load_recipe
from alexnet_jax.drawing import figures
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.model import variants

HLO = """
  %fusion = f32[4,4096]{1,0} fusion(%a, %b), kind=kLoop, calls=%all-reduce-like
  %all-reduce.1 = (f32[96]{0}, bf16[11,11,3,96]{3,2,1,0}, /*index=2*/s32[]) all-reduce(%x, %y, %z)
  %all_gather.9 = f32[32,1000]{1,0} all-gather(%wrapped_scatter), channel_id=1, dimensions={0}
  ROOT %reduce_scatter.2 = f32[4,1000]{1,0} reduce-scatter(%fusion), dimensions={0}
  %all-to-all = (f32[4,1152]{1,0}, f32[4,1152]{1,0}) all-to-all(%c, %d), channel_id=1
  %all-gather-start = bf16[8]{0} all-gather-start(%e)
  %done = bf16[8]{0} all-gather-done(%all-gather-start)
"""


def test_sent_bytes_by_hand():
    reduced = 96 * 4 + 11 * 11 * 3 * 96 * 2 + 4
    scattered = 8 * 4 * 1000 * 4  # eight parts, of which one stays
    total = 2 * reduced + 32 * 1000 * 4 + scattered + 2 * 4 * 1152 * 4 + 8 * 2
    assert collectives.count_sent_bytes(HLO, 8) == total * 7 / 8


@pytest.fixture
def tiny(monkeypatch):
    """Eight filters of 3 x 3 x 3, then 72 inputs, 16 features, 10 classes."""
    layers = (dataclasses.replace(TINY[0], filters=8), *TINY[1:])
    monkeypatch.setitem(variants.VARIANTS, 'tiny', layers)


CONV = 3 * 3 * 3 * 8 + 8
KERNELS = 72 * 16 + 16 * 10


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({}, 2 * 4 * (CONV + KERNELS + 26)),
        ({'accum_steps': 2}, 2 * 2 * 4 * (CONV + KERNELS + 26)),  # after each part
        ({'gradient_dtype': 'bfloat16'}, 2 * 2 * (CONV + KERNELS + 26)),
        # 16 examples: 88 inputs, to and fro, an eighth of them on each device; sums of 26 outputs
        # and their gradients. The biases are whole.
        (
            {'parallelism': 'hybrid'},
            2 * 4 * (CONV + 26) + 16 * (2 * 4 * 88 / 8 + 2 * 4 * 26),
        ),
        # Sums are of float32, and so are the logits' gradients.
        (
            {'parallelism': 'hybrid', 'dtype': 'bfloat16'},
            2 * 4 * (CONV + 26) + 16 * (2 * 2 * 88 / 8 + (4 + 2) * 16 + (4 + 4) * 10),
        ),
    ],
)
def test_expected_bytes_by_hand(tiny, changes, expected):
    assert collectives.expected_bytes(config_of(**changes), 8) == expected * 7 / 8


@pytest.mark.slow
def test_a_compiled_step_sends_what_is_expected(tiny, monkeypatch):
    """With towers to the end; of a thousand classes, so that a few counts do not matter."""
    edits = ('no_tower_communication',)
    config = config_of(parallelism='hybrid', num_classes=1000, edits=edits)
    step = collectives.compile_step(config, 4)
    assert step.sent == pytest.approx(collectives.expected_bytes(config, 4), rel=1e-3)
    monkeypatch.setattr(collectives, 'expected_bytes', lambda *_: step.sent * 1.01)
    with pytest.raises(RunError) as error:
        collectives.compile_step(config, 4)
    assert_has(str(error.value), 'hybrid on 4 devices', 'wrong')


@pytest.mark.parametrize(
    ('recipe', 'changes', 'parts'),
    [
        ('imagenet_bf16', {'batch_size': 256}, ['dtype=bfloat16', '--config.dtype=float32']),
        (
            'imagenet',
            {'gradient_dtype': 'bfloat16', 'batch_size': 256},
            ['gradient_dtype=bfloat16', '--config.gradient_dtype=float32'],
        ),
        ('imagenet', {'batch_size': 128}, ['batch_size=128', '256 devices', 'try 256']),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_compiled(
    monkeypatch, recipe, changes, parts
):
    def fail(*_):
        pytest.fail('work before the checks')

    monkeypatch.setattr(collectives.jax.config, 'update', fail)
    config = load_recipe(f'{ROOT}/configs/{recipe}.py')
    config.update(changes)
    with pytest.raises(BadInput) as error:
        collectives.measure(config, fail)
    assert_has(str(error.value), *parts)


def test_where_both_send_the_same():
    """58.6 million weights twice against 2 * 9,192 numbers an example and 2 * 17,408 / 8."""
    config = load_recipe(f'{ROOT}/configs/imagenet.py')
    batch = collectives.break_even(config, 8)
    weights = 9216 * 4096 + 4096 * 4096 + 4096 * 1000
    assert batch == pytest.approx(2 * weights / (2 * (4096 + 4096 + 1000) + 2 * 17_408 / 8))
    sent = collectives.sent_both_ways(config, 8, 512)
    assert sent['data'] == 2 * 4 * 62_378_344 * 7 / 8
    assert sent['hybrid'] < sent['data'] / 6


def test_the_plot_shows_both():
    config = load_recipe(f'{ROOT}/configs/imagenet.py')
    (axes,) = collectives.plot(config).axes
    ends = {line.get_label(): line.get_ydata()[[0, -1]] for line in axes.lines}
    assert ends.keys() == {f'{way}, {n} devices' for way in ('data', 'hybrid') for n in (8, 256)}
    assert ends['hybrid, 8 devices'][0] < ends['data, 8 devices'][0]
    assert ends['hybrid, 8 devices'][1] > ends['data, 8 devices'][1]
    assert figures.to_png(collectives.plot(config)).startswith(b'\x89PNG')
