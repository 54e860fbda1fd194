"""The page for browsers: what is in it, and what it shows in Chromium."""

import base64
import gzip
import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import browser
import lively_nets
import numpy as np
import onnx
import pytest
from helpers import ROOT, assert_has
from PIL import Image

from alexnet_jax.errors import BadInput
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.weights import onnx_out, web

HOSTILE = ['</script><script>alert(1)</script>', '<img src=x onerror=alert(1)>', '_und & "co"']
NAMES = [*HOSTILE, *'345678', 'n02123045']
SHOWN = [*NAMES[:-1], 'tabby']
RUNTIME = web.Runtime('1.2.3', b'export const env = 1;', b'\0asm')
COMMAND = 'npm pack onnxruntime-web@1.30.0'


@pytest.fixture(scope='module')
def net(tmp_path_factory) -> TrainedNet:
    folder = lively_nets.save_digits_run(tmp_path_factory.mktemp('web') / 'run')
    (folder / 'classes.json').write_text(json.dumps(NAMES))
    return TrainedNet.load(folder, dtype='float32')


def test_page_carries_what_it_needs(net, tmp_path):
    web.write(net, tmp_path / 'net.html', RUNTIME)
    html = (tmp_path / 'net.html').read_text()
    packed = dict(re.findall(r'<script type="text/plain" id="(\w+)">([\w+/=]+)</script>', html))
    contents = {name: gzip.decompress(base64.b64decode(text)) for name, text in packed.items()}
    assert contents.keys() == {'runtime', 'wasm', 'model'}
    assert (contents['runtime'], contents['wasm']) == (RUNTIME.code, RUNTIME.wasm)
    assert onnx.load_from_string(contents['model']) == onnx_out.to_model(
        *(net.model.layers, 28, *_tensors_and_mean(net), web.describe(net))
    )
    assert not re.search(r'https?://|@import|url\(', html)
    assert html.count('<script') == 4  # none of the classes' names is one
    assert '<img src=x' not in html
    (values,) = re.findall(r'^const page = (.*);$', html, re.MULTILINE)
    assert json.loads(values) == {
        'size': 28,
        'classes': SHOWN,
        'steps': [
            {'op': 'resize', 'height': 36, 'width': None, 'antialias': False},
            {'op': 'center_crop', 'size': 28},
        ],
    }
    assert_has(html, 'digits: run', '165,514', 'step 10', '90.00% top-1', '1.2.3', 'MIT License')
    assert_has(html, 'decode|resize(36)|center_crop(28)')


def test_nothing_of_the_machine_is_on_a_page(tmp_path):
    folder = lively_nets.save_digits_run(tmp_path / 'run', {'data.name': 'folder:/home/ann/photos'})
    source = {'name': 'a.onnx', 'source': {'run': 'b'}, 'scores': {'recall': [0.5]}}
    (folder / 'source.json').write_text(json.dumps(source))
    web.write(TrainedNet.load(folder, dtype='float32'), tmp_path / 'net.html', RUNTIME)
    html = (tmp_path / 'net.html').read_text()
    assert '/home/ann' not in html
    assert_has(html, 'folder:photos', 'a.onnx')
    assert 'recall' not in html
    assert 'as they are stored' not in html


def test_a_page_says_that_it_turns_images(tmp_path):
    ops = 'decode(stored)|resize(36)|center_crop(28)'
    folder = lively_nets.save_digits_run(tmp_path / 'run', {'data.eval_ops': ops})
    web.write(TrainedNet.load(folder, dtype='float32'), tmp_path / 'net.html', RUNTIME)
    assert 'as they are stored' in (tmp_path / 'net.html').read_text()


def _tensors_and_mean(net):
    tensors = onnx_out.layout.to_torch(net.model.layers, 28, {'params': net.params})
    return tensors, net.mean


@pytest.mark.parametrize('op', ['ten_crop(28)', 'crops(28, 3)', 'mirrored_crops(28, 3)'])
def test_ops_that_a_page_cannot_apply(op):
    with pytest.raises(BadInput) as found:
        web.steps(f'decode|resize(36)|{op}')
    name = op.partition('(')[0]
    assert_has(str(found.value), f'cannot apply {name}', 'resize_short', 'center_crop', op)


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, 'w:gz') as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f'package/{name}')
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


FILES = {
    'package.json': b'{"version": "1.2.3"}',
    f'dist/{web.CODE}': RUNTIME.code,
    f'dist/{web.WASM}': RUNTIME.wasm,
}


def test_runtime(tmp_path):
    assert web.read_runtime(archive(tmp_path / 'ort.tgz', FILES)) == RUNTIME


def test_no_runtime(tmp_path):
    with pytest.raises(BadInput) as found:
        web.read_runtime(tmp_path / 'ort.tgz')
    assert_has(str(found.value), f'{tmp_path}/ort.tgz', COMMAND, '--onnxruntime_web')


@pytest.mark.parametrize('damage', ['text', 'cut', 'another package'])
def test_not_the_runtime(tmp_path, damage):
    path = archive(tmp_path / 'ort.tgz', FILES)
    if damage == 'text':
        path.write_text('<html>')
    elif damage == 'cut':
        path.write_bytes(path.read_bytes()[:100])
    else:
        archive(path, {'package.json': b'{"version": "1.2.3"}'})
    with pytest.raises(BadInput) as found:
        web.read_runtime(path)
    assert_has(str(found.value), f'{path} is not onnxruntime-web', COMMAND)
    assert '\n' not in str(found.value)


@pytest.fixture(scope='module')
def chromium() -> None:
    if not browser.CHROMIUM:
        pytest.skip('Chromium is not installed')


@pytest.fixture(scope='module')
def runtime() -> web.Runtime:
    """The real one, which npm downloads once."""
    path = ROOT / '.pytest_cache' / 'npm' / web.PACKAGE
    if not path.exists():
        if not shutil.which('npm'):
            pytest.skip('the page for Chromium needs onnxruntime-web, and there is no npm')
        folder = path.parent / 'new'
        folder.mkdir(parents=True, exist_ok=True)
        command = [*COMMAND.split(), f'--pack-destination={folder}']
        if subprocess.run(command, capture_output=True, cwd=folder).returncode:
            pytest.skip('the page for Chromium needs onnxruntime-web, and npm cannot download it')
        (folder / path.name).replace(path)
    return web.read_runtime(path)


@pytest.fixture(scope='module')
def page(chromium, net, runtime, tmp_path_factory):  # the download comes after the skip
    """The page of the net in a browser without a network, loaded."""
    folder = tmp_path_factory.mktemp('page')
    web.write(net, folder / 'net.html', runtime)
    with browser.open_page(f'file://{folder}/net.html', folder / 'profile') as opened:
        opened.wait_for("document.body?.dataset.state === 'ready'")
        yield opened


def shown(page: browser.Page) -> list[tuple[str, float]]:
    rows = page.evaluate(
        "[...document.querySelectorAll('#classes li')].map("
        "(row) => [...row.querySelectorAll('span')].map((span) => span.textContent))"
    )
    return [(name, float(number.removesuffix('%')) / 100) for name, number in rows]


def give(page: browser.Page, how: str, path: Path) -> str:
    """Drop or choose a file; returns the state that follows."""
    page.evaluate("document.body.dataset.state = 'asked'")
    if how == 'drop':
        page.drop('.drop', path)
    else:
        page.choose('#file', path)
    page.wait_for("document.body.dataset.state !== 'asked'")
    return page.evaluate('document.body.dataset.state')


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise at several scales, as photos have."""
    random = np.random.default_rng(seed)
    layers = [
        Image.fromarray(random.integers(0, 256, (n, n, 3), np.uint8)).resize((width, height))
        for n in (2, 8, 64)
    ]
    return np.mean([np.asarray(layer) for layer in layers], axis=0).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize('how', ['drop', 'choose'])
@pytest.mark.parametrize(
    ('height', 'width', 'suffix'), [(28, 28, 'png'), (61, 47, 'png'), (300, 401, 'jpg')]
)
def test_classes_are_those_of_predict(page, net, tmp_path, how, height, width, suffix):
    path = tmp_path / f'image.{suffix}'
    Image.fromarray(picture(height, width, seed=height)).save(path, quality=95, subsampling=0)
    assert give(page, how, path) == 'done'
    wanted = net.predict(path)
    assert wanted[0][1] < 0.95  # several classes are probable
    found = shown(page)
    assert [name for name, _ in found] == [name for name, _ in wanted]
    limit = 0.00006 if suffix == 'png' else 0.01  # what is printed; another JPEG decoder
    for (_, p), (_, expected) in zip(found, wanted, strict=True):
        assert p == pytest.approx(expected, abs=limit)
    assert page.evaluate("document.getElementById('name').textContent") == path.name


@pytest.mark.slow
def test_text_called_png_and_an_image_after_it(page, tmp_path):
    (tmp_path / 'text.png').write_text('not an image')
    assert give(page, 'drop', tmp_path / 'text.png') == 'failed'
    assert 'text.png is not an image' in page.evaluate(
        "document.getElementById('status').textContent"
    )
    assert page.evaluate("document.getElementById('result').hidden")
    Image.fromarray(picture(40, 40)).save(tmp_path / 'image.png')
    assert give(page, 'choose', tmp_path / 'image.png') == 'done'


@pytest.mark.slow
def test_keyboard_reaches_the_input(page):
    page.evaluate('document.activeElement.blur()')
    page.call('Input.dispatchKeyEvent', type='keyDown', key='Tab', code='Tab')
    assert page.evaluate('document.activeElement.id') == 'file'


@pytest.mark.slow
def test_nothing_is_fetched(page):
    """Runs after the tests above, whose requests count."""
    assert page.requested[0].startswith('file://')
    assert {url.partition(':')[0] for url in page.requested[1:]} <= {'blob'}
    assert page.errors == []
    blocked = "fetch('https://example.com').then(() => 'sent', () => 'blocked')"
    assert page.evaluate(blocked) == 'blocked'
    assert 'Content Security Policy' in page.errors[-1]
    page.errors.clear()


def preprocessed(page: browser.Page, image: np.ndarray, steps: list[dict]) -> np.ndarray:
    """What the page's script makes of pixels."""
    height, width, _ = image.shape
    text = base64.b64encode(image.tobytes()).decode()
    found = page.evaluate(
        f"{{const pixels = Uint8Array.from(atob('{text}'), (c) => c.charCodeAt(0));"
        f'let image = {{height: {height}, width: {width}, pixels}};'
        f'for (const {{op, ...values}} of {json.dumps(steps)}) image = OPS[op](image, values);'
        f'({{...image, pixels: btoa(String.fromCharCode(...image.pixels))}})}}'
    )
    pixels = np.frombuffer(base64.b64decode(found['pixels']), np.uint8)
    return pixels.reshape(found['height'], found['width'], 3)


SIZES = [(28, 28), (61, 47), (47, 161), (20, 33)]


@pytest.mark.slow
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize(
    'ops', ['resize(36)', 'resize(30, 41)', 'resize_short(32)', 'resize_short(33)|center_crop(28)']
)
def test_pixels_are_those_of_the_ops(page, ops, size):
    from alexnet_jax.data.ops.chain import parse

    image = wanted = picture(*size)
    for op in parse(f'decode|{ops}').ops[1:]:
        wanted = op(wanted, 0)
    assert_same_pixels(preprocessed(page, image, web.steps(f'decode|{ops}')), wanted.numpy())


@pytest.mark.slow
@pytest.mark.parametrize('size', SIZES)
def test_antialias(page, size):
    """TensorFlow's for resize; Pillow's, with 8 bits between the passes, for torchvision."""
    import tensorflow as tf

    image = picture(*size)
    step = {'op': 'resize', 'height': 18, 'width': None, 'antialias': True}
    wanted = tf.round(tf.image.resize(image, (18, 18), antialias=True))
    assert_same_pixels(preprocessed(page, image, [step]), wanted.numpy().astype(np.uint8))

    height, width = (24 * side // min(size) for side in size)
    left, top = round((width - 19) / 2), round((height - 19) / 2)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    wanted = np.asarray(resized.crop((left, top, left + 19, top + 19)))
    step = {'op': 'torchvision', 'resize': 24, 'crop': 19}
    # Pillow computes with integers.
    assert_same_pixels(preprocessed(page, image, [step]), wanted, rare=0.05)


def assert_same_pixels(found: np.ndarray, wanted: np.ndarray, rare: float = 0.01) -> None:
    """Equal but for rare pixels that rounding moves by a level."""
    assert found.shape == wanted.shape
    difference = np.abs(found.astype(int) - wanted)
    assert difference.max() <= 1
    assert difference.mean() < rare
