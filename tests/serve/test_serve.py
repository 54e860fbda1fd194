"""The application in process, and the command as programs, browsers and hostile clients meet it."""

import contextlib
import http.client
import io
import json
import os
import random
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import browser
import jax
import numpy as np
import pytest
from cli_runs import outcomes
from helpers import ROOT, encode
from PIL import Image
from trained_runs import save_run
from werkzeug.test import Client

from alexnet_jax.cli import load_recipe
from alexnet_jax.drawing.pictures import overlay
from alexnet_jax.errors import RunError
from alexnet_jax.evaluation import saliency
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.model import variants
from alexnet_jax.parallel import malloc
from alexnet_jax.serve import app
from alexnet_jax.serve.app import App
from alexnet_jax.serve.server import Server

pytestmark = pytest.mark.slow
CLASSES = ['<b>zero</b>', *'123456789']


@pytest.fixture(scope='module')
def workdir(tmp_path_factory) -> Path:
    """A run on the digits, untrained."""
    config = load_recipe('quickstart')
    config.data.mean = 'none'
    model, size = variants.make_model(config), config.image_size
    image = np.zeros((1, size, size, 3), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), image)
    folder = tmp_path_factory.mktemp('serve') / 'run'
    save_run(folder, config, CLASSES, {1: ({'params': variables['params']}, 0.5)})
    return folder


@pytest.fixture(scope='module')
def net(workdir):
    return TrainedNet.load(workdir)


@pytest.fixture(scope='module')
def client(net):
    return Client(App(net, 100_000))


def png(seed: int, size: int = 28) -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


def expected_classes(net, encoded: bytes) -> list[dict]:
    probabilities = net.probabilities(net.preprocess(encoded)[None])[0]
    best = np.argsort(-probabilities)[:5]
    return [
        {'class': CLASSES[i], 'name': CLASSES[i], 'probability': pytest.approx(probabilities[i])}
        for i in best
    ]


# In process


@pytest.mark.parametrize('how', ['body', 'form'])
def test_an_image_gets_its_classes(client, net, how):
    encoded = png(0)
    form = {'image': (io.BytesIO(encoded), 'x.png')}
    response = client.post('/', data=encoded if how == 'body' else form)
    assert (response.status_code, response.mimetype) == (200, 'application/json')
    assert response.json == {'classes': expected_classes(net, encoded)}


def test_a_heat_map_is_that_of_the_first_class(client, net):
    encoded = png(1)
    found = client.post('/?heat_map=1', data=encoded).json
    view = net.preprocess(encoded)
    label = CLASSES.index(found['classes'][0]['class'])
    maps = saliency.normalized(saliency.grad_cam(net, view[None], np.array([label])))
    kind, data = found['heat_map'].split(',')
    assert kind == 'data:image/png;base64'
    pixels = np.asarray(Image.open(io.BytesIO(b64decode(data))))
    difference = pixels.astype(int) - overlay(view, maps[0])
    assert np.abs(difference).max() <= 1


def test_the_heat_map_of_ten_crops_is_that_of_the_center(workdir):
    net = TrainedNet.load(workdir)
    net.config.data.eval_ops = 'decode|resize(36)|ten_crop(28)'
    views = net.preprocess(png(1))
    answer = Client(App(net, 100_000)).post('/?heat_map=1', data=png(1)).json
    label = CLASSES.index(answer['classes'][0]['class'])
    maps = saliency.normalized(saliency.grad_cam(net, views[4][None], np.array([label])))
    pixels = np.asarray(Image.open(io.BytesIO(b64decode(answer['heat_map'].split(',')[1]))))
    net.config.data.eval_ops = 'decode|resize(36)|center_crop(28)'
    np.testing.assert_array_equal(views[4], net.preprocess(png(1)))
    assert np.abs(pixels.astype(int) - overlay(views[4], maps[0])).max() <= 1


@pytest.mark.parametrize(
    ('ops', 'axes'),
    [
        ('decode|center_crop(480)|resize(28)', ()),  # a small image would be refused
        ('decode|center_crop(480)|resize(36)|ten_crop(28)', (10,)),
        ('decode|resize(36)|crops(28, 1)', (1,)),
    ],
)
def test_what_is_compiled_is_what_images_become(workdir, monkeypatch, ops, axes):
    net, shapes = TrainedNet.load(workdir), []
    net.config.data.eval_ops = ops
    monkeypatch.setattr(TrainedNet, 'log_probs', lambda _, views: shapes.append(views.shape))
    monkeypatch.setattr(App, '_heat_maps', lambda _, asked: shapes.append(asked[0][0].shape))
    App(net, 100_000)
    assert net.preprocess(png(0, 500)).shape == (*axes, 28, 28, 3)
    *batches, view = shapes
    assert batches == [(count, *axes, 28, 28, 3) for count in (1, 2, 4, 8, 16, 32, 64)]
    assert view == (28, 28, 3)


@pytest.mark.parametrize(
    ('method', 'path', 'data', 'status', 'error'),
    [
        ('POST', '/', b'', 400, 'has no image; POST one as the body or as the file `image`'),
        ('POST', '/', b'no image', 400, 'it is not a JPEG, PNG, GIF'),
        ('POST', '/', png(0)[:200], 400, 'the image cannot be used: '),
        ('POST', '/', {'picture': (io.BytesIO(b'x'), 'x')}, 400, "has no file named 'image'"),
        ('POST', '/', b'x' * 100_001, 413, 'is too large; allowed: up to 0 MB'),
        ('GET', '/etc/passwd', None, 404, 'nothing at /etc/passwd; POST an image to /'),
        ('DELETE', '/', None, 405, 'not allowed'),
        ('POST', '/healthz', b'', 405, 'not allowed'),
    ],
)
def test_bad_requests_are_told_why(client, method, path, data, status, error):
    response = client.open(path, method=method, data=data)
    assert (response.status_code, response.mimetype) == (status, 'application/json')
    assert response.json.keys() == {'error'}
    assert error in response.json['error']


@pytest.fixture(scope='module')
def port(net):
    """That of a server in this process."""
    server = Server('127.0.0.1', 0, App(net, 100_000), 8)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.port
    server.stop()


@pytest.mark.parametrize(('size', 'status'), [(100_000, 200), (100_001, 413), (300_000, 413)])
def test_a_chunked_body(port, size, status):
    """Its length is not known beforehand."""
    whole = png(0) + bytes(size - len(png(0)))
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
    with contextlib.closing(connection):
        pieces = (whole[first : first + 9999] for first in range(0, size, 9999))
        connection.request('POST', '/', pieces, encode_chunked=True)
        assert connection.getresponse().status == status


def test_few_images_are_decoded_at_a_time(net, monkeypatch):
    monkeypatch.setattr(app, 'DECODING', 2)
    client = Client(App(net, 100_000))
    decoding, most = [], []

    def preprocess(net, encoded):
        decoding.append(encoded)
        time.sleep(0.1)
        most.append(len(decoding))
        decoding.remove(encoded)
        raise RunError('damaged')

    monkeypatch.setattr(TrainedNet, 'preprocess', preprocess)
    with ThreadPoolExecutor(6) as pool:
        codes = pool.map(lambda number: client.post('/', data=png(number)).status_code, range(6))
    assert list(codes) == [400] * 6
    assert max(most) == 2


@pytest.mark.parametrize('is_damaged', [False, True])
def test_memory_is_given_back(net, monkeypatch, is_damaged):
    client, trimmed = Client(App(net, 100_000)), []
    monkeypatch.setattr(malloc, 'trim_heap_above', trimmed.append)
    client.post('/', data=b'x' if is_damaged else png(0))
    assert trimmed == [app.KEPT]


@pytest.mark.parametrize(
    ('error', 'answer', 'lines'),
    [
        (RuntimeError('RESOURCE_EXHAUSTED: 2 GiB\nmore'), 'out of memory: RESOURCE_EXHAUSTED', 1),
        (MemoryError(), 'out of memory: MemoryError; stop other programs', 1),
        (IndexError('a bug'), 'internal error', None),  # and its traceback
    ],
)
def test_an_error_of_the_server_is_json_too(client, monkeypatch, capsys, error, answer, lines):
    def fail(*_):
        raise error

    monkeypatch.setattr(TrainedNet, 'log_probs', fail)
    response = client.post('/', data=png(0))
    assert (response.status_code, response.mimetype) == (500, 'application/json')
    assert response.json['error'].startswith(answer)
    assert response.headers['X-Content-Type-Options'] == 'nosniff'
    printed = capsys.readouterr().err
    assert printed.endswith('IndexError: a bug\n') if lines is None else printed.count('\n') == 1


def test_health_and_the_page(client):
    assert client.get('/healthz').text == 'ok\n'
    page = client.get('/')
    assert page.mimetype == 'text/html'
    assert "default-src 'none'" in page.headers['Content-Security-Policy']


def test_the_page_is_utf8_in_every_locale(monkeypatch):
    encodings = []

    def read_text(path, encoding=None):
        encodings.append(encoding)
        return path.read_bytes().decode()

    monkeypatch.setattr(Path, 'read_text', read_text)
    assert 'waiting …' in runpy.run_path(app.__file__)['PAGE']
    assert encodings == ['utf-8']


# The command


@contextlib.contextmanager
def serving(workdir: Path, cache: Path, *flags: str):
    """Yield the process and the address."""
    command = [sys.executable, '-m', 'alexnet_jax.serve', f'--workdir={workdir}', '--port=0']
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache)}
    environment.pop('XLA_FLAGS', None)
    process = subprocess.Popen(
        [*command, *flags], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    with process:
        try:
            line = process.stdout.readline()
            address = re.fullmatch(rf'{workdir}, step 1: (http://127.0.0.1:\d+/) .*\n', line)
            assert address, line
            yield process, address[1]
        finally:
            process.kill()


def ask(address: str, encoded: bytes) -> dict:
    with urllib.request.urlopen(urllib.request.Request(address, encoded), timeout=60) as answer:
        return json.load(answer)


def resident_bytes(process) -> int:
    pages = Path(f'/proc/{process.pid}/statm').read_text().split()[1]
    return int(pages) * os.sysconf('SC_PAGE_SIZE')


def misbehave(address: str, rng: random.Random) -> None:
    """Send something that no browser would, and perhaps leave without reading."""
    port = int(address.rsplit(':', 1)[1].strip('/'))
    body = rng.randbytes(rng.randrange(2000))
    image = bytearray(png(rng.randrange(9)))
    image[rng.randrange(len(image))] ^= 1 << rng.randrange(8)
    whole = lambda data: b'POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n' % len(data) + data  # noqa: E731
    sent = rng.choice(
        [
            body,
            whole(body),
            whole(bytes(image)),
            whole(bytes(image))[: rng.randrange(100)],
            b'POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n',
            b'POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\nx',
            b'POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
            b'POST / HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\n'
            b'Content-Length: 40\r\n\r\n' + b'--x\r\n' * 8,
            b'GET /' + b'a' * rng.randrange(70000) + b' HTTP/1.1\r\n\r\n',
            b'GET / HTTP/1.1\r\n' + b'a: b\r\n' * rng.randrange(300) + b'\r\n',
            b'GET /%00/../..%ff HTTP/9.9\r\n\r\n',
        ]
    )
    with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port)) as client:
        client.settimeout(30)
        client.sendall(sent)
        if rng.random() < 0.7:
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass


def test_hostile_requests_cost_nothing(workdir, cache, net, full):
    encoded = png(3)
    with serving(workdir, cache) as (process, address), ThreadPoolExecutor(8) as pool:
        expected = {'classes': expected_classes(net, encoded)}
        assert ask(address, encoded) == expected
        before = resident_bytes(process)
        seeds = range(2000 if full else 40)
        list(pool.map(lambda seed: misbehave(address, random.Random(seed)), seeds))
        assert ask(address, encoded) == expected
        assert resident_bytes(process) < before + 300e6
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_many_clients_all_get_their_answers_and_sigterm_loses_none(workdir, cache, net):
    images = [png(seed) for seed in range(40)]
    with serving(workdir, cache) as (process, address), ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(ask, address, image) for image in images]
        futures[0].result()
        found = [future.result() for future in futures]
        for image, answer in zip(images, found, strict=True):
            assert answer == {'classes': expected_classes(net, image)}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stdout.read() == 'stopped\n'


def test_the_page_in_a_browser(workdir, cache, net, tmp_path):
    if not browser.CHROMIUM:
        pytest.skip('needs Chromium')
    images = [tmp_path / 'one <i>.png', tmp_path / 'two.png', tmp_path / 'bad.png']
    for seed, path in enumerate(images):
        path.write_bytes(png(seed) if seed < 2 else b'no image')
    with (
        serving(workdir, cache) as (_, address),
        browser.open_page(address, tmp_path / 'profile') as page,
    ):
        page.wait_for('document.readyState == "complete"')
        page.choose('input', images[0])
        page.wait_for('document.querySelectorAll("table").length == 1')
        page.drop('label', images[1])
        page.wait_for('document.querySelectorAll("table").length == 2')
        page.choose('input', images[2])
        page.wait_for('document.querySelectorAll(".error").length == 1')
        names = page.evaluate('[...document.querySelectorAll("h2")].map(e => e.textContent)')
        assert names == ['bad.png', 'two.png', 'one <i>.png']
        cells = 'e => [...e.querySelectorAll("td")].map(e => e.textContent)'
        tables = page.evaluate(f'[...document.querySelectorAll("table")].map({cells})')
        for shown, path in zip(tables, (images[1], images[0]), strict=True):
            expected = expected_classes(net, path.read_bytes())
            assert shown[::2] == [row['name'] for row in expected]
        loaded = 'e => e.complete && e.naturalWidth'
        assert page.evaluate(f'[...document.images].map({loaded})') == [28, 28, 28, 28]
        assert 'not a JPEG' in page.evaluate('document.querySelector(".error").textContent')
        assert [error for error in page.errors if '400 (BAD REQUEST)' not in error] == []
        assert all(url.startswith((address, 'data:')) for url in page.requested)


def test_bad_input_is_one_line():
    cases = [
        ((), 'usage: python -m alexnet_jax.serve --workdir=DIR'),
        (('--workdir=nowhere', '--port=0'), 'nowhere'),
        (('--workdir=x', '--port=70000'), 'port'),
    ]
    found = outcomes('alexnet_jax.serve.__main__', *(flags for flags, _ in cases))
    for (code, output, errors), (_, message) in zip(found, cases, strict=True):
        assert (code, output, errors.count('\n')) == (2, '', 1)
        assert message in errors
