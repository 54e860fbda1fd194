"""The server: its limit of connections, and how it ends."""

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
import urllib.request
from types import SimpleNamespace

import pytest
from absl.testing import flagsaver

from alexnet_jax.errors import RunError
from alexnet_jax.serve import __main__ as command
from alexnet_jax.serve import server
from alexnet_jax.serve.server import Server


class App:
    """Answers once `go` is set."""

    def __init__(self):
        self.go, self.asked = threading.Event(), threading.Semaphore(0)

    def __call__(self, environ, start_response):
        self.asked.release()
        assert self.go.wait(30)
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [b'done']


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(('127.0.0.1', port), timeout=5).close()
    except ConnectionError:  # refused, or reset while it closes
        return False
    return True


@pytest.fixture
def app():
    return App()


@pytest.fixture
def most():
    """The number of connections; a test's parameter can replace it."""
    return 2


@pytest.fixture
def serving(app, most):
    found = Server('127.0.0.1', 0, app, most)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    app.go.set()
    found.stop()
    thread.join(30)


@pytest.fixture
def ask(serving):
    """ask() -> a connection that has sent a request."""
    opened = []

    def connect() -> http.client.HTTPConnection:
        opened.append(http.client.HTTPConnection('127.0.0.1', serving.port, timeout=30))
        opened[-1].request('GET', '/')
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def test_a_port_that_is_taken_is_told_before_any_work(serving, monkeypatch):
    flags = ['--workdir=nowhere', f'--port={serving.port}']
    monkeypatch.setattr(sys, 'argv', ['serve', *flags])
    monkeypatch.setattr(command, 'configure_runtime', lambda: pytest.fail('work has begun'))
    line = f'cannot listen on 127.0.0.1:{serving.port}: Address already in use'
    with flagsaver.flagsaver(), pytest.raises(RunError, match=line):
        command.main()


def test_an_address_that_was_checked_is_free():
    with contextlib.closing(socket.create_server(('127.0.0.1', 0))) as other:
        port = other.getsockname()[1]
    server.check_address('127.0.0.1', port)
    server.check_address('127.0.0.1', port)


def test_too_many_connections_are_turned_away(ask, app):
    kept = [ask(), ask()]
    for _ in kept:
        assert app.asked.acquire(timeout=30)
    refused = ask().getresponse()
    assert (refused.status, refused.headers['Retry-After']) == (503, '1')
    assert json.loads(refused.read()) == {'error': 'busy; try again'}
    app.go.set()
    assert [connection.getresponse().read() for connection in kept] == [b'done', b'done']
    wait_for(lambda: ask().getresponse().status == 200)  # there is room again


@pytest.mark.parametrize('size', [10_000, 1_000_000])
def test_an_image_that_is_turned_away_is_told_so(serving, ask, app, size):
    """A connection closed before the body was read would be reset, and the answer lost."""
    for _ in range(2):
        ask()
        assert app.asked.acquire(timeout=30)
    for _ in range(3):
        connection = http.client.HTTPConnection('127.0.0.1', serving.port, timeout=30)
        connection.request('POST', '/', bytes(size))
        assert connection.getresponse().status == 503
        connection.close()
        wait_for(lambda: serving._turning_away._value == 2)  # it has seen the end


def test_a_request_that_arrives_too_slowly_is_ended(monkeypatch):
    monkeypatch.setattr(server, 'ARRIVAL_SECONDS', 0.5)
    ended = threading.Event()

    def read(environ, start_response):
        assert len(environ['wsgi.input'].read(1000)) < 1000
        ended.set()
        start_response('400 Bad Request', [])
        return []

    serving = Server('127.0.0.1', 0, read, 1)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    with socket.create_connection(('127.0.0.1', serving.port), timeout=30) as slow:
        slow.send(b'POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n')
        for _ in range(200):  # a byte at a time, it is never silent
            with contextlib.suppress(OSError):
                slow.send(b'x')
            if ended.wait(0.1):
                break
        assert ended.is_set()
    serving.stop()
    thread.join(30)


def test_a_connection_without_a_thread_gives_its_place_back(serving, ask, app, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread is not threading.main_thread() and 'process_request' in str(thread._target):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, 'start', refuse)
    for _ in range(3):
        with pytest.raises((ConnectionError, http.client.BadStatusLine)):
            ask().getresponse()
    monkeypatch.setattr(threading.Thread, 'start', start)
    app.go.set()
    assert ask().getresponse().read() == b'done'


def test_what_is_under_way_is_finished(serving, ask, app):
    connection = ask()
    assert app.asked.acquire(timeout=30)
    stopping = threading.Thread(target=serving.stop)
    stopping.start()
    wait_for(lambda: not accepts(serving.port))
    assert stopping.is_alive()
    app.go.set()
    assert connection.getresponse().read() == b'done'
    stopping.join(30)
    assert not stopping.is_alive()


@pytest.mark.parametrize('most', [4])
def test_answers_may_take_longer_together_than_one(serving, ask, app, monkeypatch):
    """What counts is the time since the last connection ended: 0.6 of 2 s, and not 2.4 s."""
    monkeypatch.setattr(server, 'IDLE_SECONDS', 2)
    one_more = threading.Semaphore(0)
    app.go = SimpleNamespace(wait=lambda seconds: one_more.acquire(timeout=seconds), set=int)
    asked = [ask() for _ in range(4)]
    for _ in asked:
        assert app.asked.acquire(timeout=30)
    stopping = threading.Thread(target=serving.stop)
    stopping.start()
    for _ in asked:
        time.sleep(0.6)
        assert stopping.is_alive()
        one_more.release()
    assert [connection.getresponse().read() for connection in asked] == [b'done'] * 4
    stopping.join(30)
    assert not stopping.is_alive()


def test_connections_without_a_request_do_not_delay_the_end(serving, ask, app):
    """One that never sent a request, and one whose first was answered."""
    app.go.set()
    answered = ask()
    assert answered.getresponse().read() == b'done'
    with socket.create_connection(('127.0.0.1', serving.port), timeout=30):
        wait_for(lambda: len(serving.idle) >= 1)
        began = time.monotonic()
        serving.stop()
        assert time.monotonic() - began < server.IDLE_SECONDS / 2


def test_a_silent_connection_is_closed(monkeypatch, serving):
    monkeypatch.setattr(server._Handler, 'timeout', 0.2)
    with socket.create_connection(('127.0.0.1', serving.port), timeout=30) as silent:
        silent.send(b'POST / HTTP/1.1\r\nContent-Length: 10\r\n')
        assert silent.recv(1000) == b''


def test_an_address_of_ipv6(app):
    try:
        socket.create_server(('::1', 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip('this machine has no IPv6')
    serving = Server('::1', 0, app, 2)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    app.go.set()
    with urllib.request.urlopen(f'http://[::1]:{serving.port}/', timeout=30) as answer:
        assert answer.status == 200
    serving.stop()
    thread.join(30)


def test_an_address_that_is_taken(serving):
    with pytest.raises(RunError, match=f'cannot listen on 127.0.0.1:{serving.port}: Address'):
        Server('127.0.0.1', serving.port, lambda *_: [], 2)
