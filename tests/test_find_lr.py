"""The command `find_lr`: what it refuses, what it prints, the command to go on with."""

import math
import shlex
import sys

import numpy as np
import pytest
from absl.testing import flagsaver
from helpers import assert_has
from PIL import Image

from alexnet_jax import find_lr
from alexnet_jax.cli import load_recipe
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.training import lr_range

CHANCE = math.log(10)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """command('--flag=value', ...) runs `find_lr` on the digits."""

    def run(*args, recipe='--config=quickstart'):
        monkeypatch.setattr(find_lr, 'configure_runtime', lambda _: None)  # JAX has started
        monkeypatch.setattr(sys, 'argv', ['find_lr', recipe, f'--output={tmp_path}/x.png', *args])
        with flagsaver.flagsaver():
            find_lr.main()

    return run


@pytest.mark.parametrize(
    ('args', 'parts'),
    [
        (['--lowest=1', '--highest=0.1'], ['--lowest=1 must be below --highest=0.1']),
        (['--highest=inf'], ['--highest=inf', 'finite']),
        (['--highest=nan'], ['--highest=nan', 'finite']),
        (['--steps=3'], ['steps']),
        (['--output=lr.pdf'], ['--output=lr.pdf', '.png']),
        (['stray'], ['usage: python -m alexnet_jax.find_lr']),
        (['--config.batch_size=0'], ['batch_size=0']),
        (['--config.batch_size=60'], ['batch_size=60 does not divide evenly across 8 devices']),
    ],
)
def test_refused(command, args, parts):
    with pytest.raises(BadInput) as error:
        command(*args)
    assert_has(str(error.value), *parts)


def test_a_run_of_another_network(command, tmp_path):
    config = load_recipe('quickstart')
    config.edits = ('tanh',)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/config.json').write_text(config.to_json())
    with pytest.raises(BadInput, match=r'init_from=.*/run is a run of another network'):
        command(f'--config.init_from={tmp_path}/run')


def test_no_config(command):
    with pytest.raises(BadInput, match='usage: '):
        command(recipe='--steps=20')


def test_the_command_to_go_on_with():
    words = [
        '--config=configs/cifar10.py', '--config.edits=(\'tanh\',)', '--steps=50',
        '--output', 'x.png', '--config.optimizer.learning_rate=3', '--lowest=1e-4',
        '--config.seed', '3',
    ]  # fmt: skip
    assert shlex.split(find_lr.command(words, 0.02)) == [
        'python', '-m', 'alexnet_jax.main', '--config=configs/cifar10.py',
        "--config.edits=('tanh',)", '--config.seed', '3',
        '--config.optimizer.learning_rate=0.02', '--workdir=runs/NAME',
    ]  # fmt: skip


@pytest.mark.slow
def test_on_the_digits(command, tmp_path, capsys):
    command('--steps=10', '--lowest=1e-5', '--highest=1e-3', '--config.optimizer.name=adamw')
    printed = capsys.readouterr().out
    assert_has(printed, '1e-05', '0.001', 'x.png')
    assert len(printed.splitlines()) >= 12
    with Image.open(tmp_path / 'x.png') as image:
        assert image.width > image.height > 400
    assert sorted(path.name for path in tmp_path.iterdir()) == ['x.png']
    with pytest.raises(BadInput, match=r'x\.png exists'):
        command('--steps=10')


def result(monkeypatch, losses, capsys, command) -> str:
    monkeypatch.setattr(find_lr, '_range_test', lambda config, rates: (np.array(losses), CHANCE))
    command()
    return capsys.readouterr().out


def test_what_is_printed_when_it_learned(monkeypatch, capsys, command):
    """Of 300 steps over five decades, the 240th is at 0.1 (1e-5 * 1e5 ** (239 / 299))."""
    losses = [*np.linspace(2.3, 1.0, 240), *np.full(10, 30.0)]
    printed = result(monkeypatch, losses, capsys, command)
    assert_has(
        printed,
        'lowest     at 0.099',
        'suggested  0.01, a tenth of that (the recipe has 0.008)',
        'python -m alexnet_jax.main --config=quickstart --config.optimizer.learning_rate=0.01',
    )


def test_what_is_printed_when_it_did_not(monkeypatch, capsys, command):
    printed = result(monkeypatch, [2.31] * 250, capsys, command)
    assert 'the loss hardly fell' in printed
    assert 'suggested' not in printed
    assert 'alexnet_jax.main' not in printed


def test_a_loss_that_explodes_at_once(monkeypatch, capsys, command):
    with pytest.raises(RunError, match=r'at the first rate, 1e-05.* or --config\.edits=he'):
        result(monkeypatch, [2.3], capsys, command)


@pytest.mark.parametrize('losses', [[2.3], [2.31] * 250])
def test_advice_that_was_taken_is_not_repeated(monkeypatch, capsys, command, losses):
    monkeypatch.setattr(find_lr, '_range_test', lambda config, rates: (np.array(losses), CHANCE))
    said = ''
    try:
        command('--config.edits=he_init')
    except RunError as error:
        said = str(error)
    said += capsys.readouterr().out
    assert 'try' in said
    assert 'he_init' not in said


def test_the_plot_marks_both_rates():
    rates = np.geomspace(1e-5, 1, 50)
    figure = find_lr.plot(rates, np.linspace(2.3, 1, 50), 0.02, 0.01)
    (axes,) = figure.axes
    each, average, suggested, current = axes.lines
    assert len(each.get_xdata()) == len(average.get_xdata()) == 50
    assert (suggested.get_xdata()[0], current.get_xdata()[0]) == (0.02, 0.01)
    np.testing.assert_allclose(average.get_ydata(), lr_range.smooth(np.linspace(2.3, 1, 50)))
