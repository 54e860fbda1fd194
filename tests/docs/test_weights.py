"""The examples on the page of weights run, after the exports that the page types."""

import re
import subprocess
import sys

import lively_nets
import numpy as np
import pytest
from helpers import ROOT
from pages import blocks, command_lines, without_blocks
from PIL import Image

from alexnet_jax.data.ops import chain
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.weights import hlo, onnx_out

PAGE = ROOT / 'docs' / 'weights.md'


def test_the_page_says_where_each_file_of_its_commands_comes_from():
    text = PAGE.read_text()
    commands = [words for words in command_lines(text) if 'alexnet_jax.convert' in words]
    named = [word.rpartition('=')[2] for words in commands for word in words[3:]]
    files = {word for word in named if re.search(r'\.(pth|caffemodel|binaryproto|onnx)$', word)}
    assert files == {'bvlc_alexnet.caffemodel', 'imagenet_mean.binaryproto'}
    assert [file for file in files if file not in without_blocks(text)] == []


@pytest.mark.slow
def test_exports_are_used_as_shown(tmp_path):
    net = TrainedNet.load(lively_nets.save_digits_run(tmp_path / 'run'), dtype='float32')
    onnx_out.write(net, tmp_path / 'digits.onnx')
    hlo.write(net, tmp_path / 'digits')
    _, _, section = PAGE.read_text().partition('\n## Exports\n')
    section, _, _ = section.partition('\n## ')
    code = [text for language, text in blocks(section) if language == 'python']
    code.append('assert features.shape == (1, 128)')
    code.append("np.save('pixels.npy', pixels_of('photo.png'))")
    photo = np.random.RandomState(0).randint(256, size=(20, 30, 3), dtype=np.uint8)
    Image.fromarray(photo).resize((700, 500)).save(tmp_path / 'photo.png')
    done = subprocess.run(
        [sys.executable, '-c', '\n'.join(code)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    name, scores = done.stdout.splitlines()
    digit = int(net.probabilities(lively_nets.images(28, 1) * 0)[0].argmax())
    assert (name, scores) == (f'digit {digit}', f'{digit} (1, 10)')

    ops = 'decode|resize_short(256, antialias)|center_crop(227)'
    expected = chain.read_image(str(tmp_path / 'photo.png'), ops, max_pixels=10**6)
    (found,) = np.load(tmp_path / 'pixels.npy')
    assert found.shape == (227, 227, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1
