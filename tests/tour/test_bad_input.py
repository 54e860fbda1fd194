"""What the command refuses, each in one line, before any work."""

import sys

import numpy as np
import pytest
from absl.testing import flagsaver
from helpers import assert_has
from PIL import Image

from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.tour import __main__ as tour


@pytest.fixture
def command(monkeypatch, tmp_path):
    """command(words) -> the error of the command; it has written nothing."""
    monkeypatch.setattr(tour, 'configure_runtime', lambda: None)  # JAX has started

    def run(*words: str) -> BadInput | RunError:
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob('*'))
        monkeypatch.setattr(sys, 'argv', ['tour', *words])
        with flagsaver.flagsaver(), pytest.raises((BadInput, RunError)) as found:
            tour.main()
        assert '\n' not in str(found.value)
        assert sorted(tmp_path.rglob('*')) == before
        return found.value

    return run


@pytest.fixture
def small(tmp_path) -> str:
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(tmp_path / 'small.png')
    return 'small.png'


OUTPUT = '--output=tour.html'


@pytest.mark.parametrize(
    ('words', 'parts'),
    [
        ([], ['usage', 'IMAGE', '--output']),
        (['a.png'], ['usage', '--output']),
        (['a.png', 'b.png', OUTPUT], ['usage', 'IMAGE']),
        (['a.png', '--output=tour.pdf'], ['--output=tour.pdf', '.html']),
        (['a.png', '--output=nowhere/tour.html'], ['nowhere', 'does not exist']),
        (['a.png', OUTPUT, '--language=fr'], ['language', 'fr', 'en', 'vi']),
        (
            ['a.png', OUTPUT, '--workdir=run', '--config=quickstart'],
            ['--workdir', '--config', 'exclusive'],
        ),
        (['a.png', OUTPUT, '--workdir=run'], ['a.png', 'does not exist']),
        (['a.png', OUTPUT, '--config=quickstart'], ['a.png', 'does not exist']),
        (['.', OUTPUT, '--config=quickstart'], ['folder', 'one image']),
        (['a.png', OUTPUT, '--config=quikstart'], ['quikstart', 'quickstart']),
        (
            ['a.png', OUTPUT, '--config=quickstart', '--config.init_from=runs/x'],
            ['init_from=runs/x: training would start', 'show them with --workdir=runs/x'],
        ),
        (['/dev/null', OUTPUT, '--config=quickstart'], ['image /dev/null is a pipe or a device']),
        (
            ['a.png', OUTPUT, '--config=quickstart', '--config.image_size=4'],
            ['image_size=4'],
        ),
    ],
)
def test_bad_flags(command, words, parts):
    error = command(*words)
    assert_has(str(error), *parts)
    assert error.exit_code == 2


def test_no_run(command, small):
    error = command(small, OUTPUT, '--workdir=run')
    assert_has(str(error), 'run', 'config.json')
    assert error.exit_code == 2


def test_the_output_exists(command, small, tmp_path):
    (tmp_path / 'tour.html').write_text('mine')
    assert_has(str(command(small, OUTPUT)), 'tour.html', 'exists')
    assert (tmp_path / 'tour.html').read_text() == 'mine'


def test_not_an_image(command, tmp_path):
    """As with predict: the image is what fails, so the exit code is that of a failure."""
    (tmp_path / 'text.png').write_text('not an image')
    error = command('text.png', OUTPUT, '--config=quickstart')
    assert_has(str(error), 'text.png', 'not')
    assert error.exit_code == 1


def test_another_size(command, small):
    error = command(small, OUTPUT, '--config=quickstart', '--config.data.eval_ops=decode')
    assert_has(str(error), 'small.png', '20 x 24', '28 x 28', 'eval_ops', 'resize')
    assert error.exit_code == 2
