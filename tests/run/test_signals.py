"""Signals to stop: which count as SIGTERM, which stay ignored, and a terminal that is gone."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from helpers import ROOT

from alexnet_jax.errors import Interrupted, catch_stop_signals
from alexnet_jax.parallel import sigterm
from alexnet_jax.run import signals
from alexnet_jax.run.signals import PreemptionHandler

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@pytest.fixture
def restore():
    before = {number: signal.getsignal(number) for number in WATCHED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_counts_as_sigterm(number, restore):
    with PreemptionHandler() as preemption:
        assert not preemption.should_stop(1)
        signal.raise_signal(number)
        assert preemption.should_stop(1)
        assert preemption.number == signal.SIGTERM


def test_a_signal_before_a_run_continues(restore, monkeypatch):
    """JAX sets the step to stop at once, to one more than the last that it was asked about."""
    asked, stop_at = [0], None

    def reached(step: int) -> bool:
        asked.append(step)
        return step == stop_at

    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(signals.multihost_utils, 'reached_preemption_sync_point', reached)
    with PreemptionHandler() as preemption:
        assert not preemption.came_before(1000)
        stop_at = max(asked) + 1
        assert preemption.should_stop(1001)
    asked, stop_at = [0], 1  # it came before anybody asked
    with PreemptionHandler() as preemption:
        assert preemption.came_before(1000)


@pytest.fixture
def second_of_two(restore, monkeypatch):
    """(the signals that JAX's handler notes, those that the handler of the process gets)."""
    noted, received = [], []
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(noted.append)  # a stand-in for JAX's
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(sigterm, '_of_jax', None)
    sigterm._libc.signal(signal.SIGTERM, handler)
    sigterm.keep_jax_handler()
    catch_stop_signals(lambda number, _: received.append(number))
    yield noted, received
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the stand-in goes now


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_of_several_processes_jax_notes_signals_during_training_only(second_of_two, number):
    noted, received = second_of_two
    with PreemptionHandler():
        signal.raise_signal(number)
        assert (noted, received) == ([signal.SIGTERM], [])
    signal.raise_signal(signal.SIGTERM)
    assert (noted, received) == ([signal.SIGTERM], [signal.SIGTERM])


def test_a_signal_after_the_stop_does_not_cut_short_what_follows(second_of_two):
    """Those to the processes of a run do not arrive at the same time."""
    with pytest.raises(Interrupted), PreemptionHandler():
        raise Interrupted('stopped', signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.raise_signal(number)
    assert second_of_two == ([signal.SIGTERM], [])


def test_handlers_are_put_back(restore):
    before = [signal.getsignal(number) for number in WATCHED]
    with PreemptionHandler():
        assert all(signal.getsignal(n) != b for n, b in zip(WATCHED, before, strict=True))
    assert [signal.getsignal(number) for number in WATCHED] == before


@pytest.mark.parametrize('number', [signal.SIGHUP, signal.SIGINT])
def test_what_is_ignored_stays_ignored(restore, number):
    """As under nohup, and in the background of a script, whose Ctrl-C reaches all it started."""
    signal.signal(number, signal.SIG_IGN)
    with PreemptionHandler() as preemption:
        signal.raise_signal(number)
        assert not preemption.should_stop(1)
        signal.raise_signal(signal.SIGUSR1)
        assert preemption.should_stop(1)


def test_a_second_signal_ends_at_once_unless_it_repeats_sigterm(restore, monkeypatch):
    """To stop a service, systemd signals a sweep and its trials, which the sweep then stops too."""
    ended, now = [], [100.0]
    monkeypatch.setattr(os, '_exit', ended.append)
    monkeypatch.setattr(signals.time, 'monotonic', lambda: now[0])
    with PreemptionHandler():
        for seconds in (0, 1):
            now[0] = 100.0 + seconds
            signal.raise_signal(signal.SIGTERM)
        assert ended == []
        signal.raise_signal(signal.SIGINT)
        assert ended == [130]
        now[0] = 103.0
        signal.raise_signal(signal.SIGTERM)
        assert ended == [130, 143]


def test_those_that_come_second_say_nothing_new(restore):
    """systemd sends SIGHUP after SIGTERM; a second SIGTERM is one too many."""
    received = []
    catch_stop_signals(lambda number, _: received.append(number))
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(number)
    assert received == [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]


IN_A_TERMINAL = """
import signal, sys, time
from alexnet_jax.errors import Interrupted, catch_stop_signals, run_command

def main():
    received = []
    catch_stop_signals(lambda number, _: received.append(number))
    print('ready', flush=True)
    while not received:
        time.sleep(0.01)
    print('saving')
    print('saved', file=sys.stderr, flush=True)
    open(sys.argv[1], 'w').write('saved')
    raise Interrupted('stopped', received[0])

run_command(main)
"""


@pytest.mark.slow
def test_a_terminal_that_closes(tmp_path):
    """What the run prints while it saves goes nowhere, instead of ending it with an error."""
    ours, theirs = os.openpty()
    saved = tmp_path / 'saved'
    command = [sys.executable, '-c', IN_A_TERMINAL, str(saved)]
    with subprocess.Popen(
        ['setsid', '--ctty', *command], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs
    ) as run:
        try:
            os.close(theirs)
            assert os.read(ours, 5) == b'ready'
            os.close(ours)  # the terminal sends SIGHUP, and every write fails from now on
            assert run.wait(60) == 143
        finally:
            run.kill()
    assert saved.read_text() == 'saved'


IN_A_PIPE = """
import sys
import time
from pathlib import Path
from alexnet_jax.errors import Interrupted, run_command
from alexnet_jax.run.logger import Log
from alexnet_jax.run.signals import PreemptionHandler

def main():
    with PreemptionHandler() as preemption, Log(sys.argv[1], 0, 2, 1, 1) as log:
        log.say('ready')
        sys.stdin.read()  # until the reader is gone
        for step in (1, 2):
            scores = {'loss': 0.0, 'top1': 0.0, 'top5': 0.0, 'bad_images': 0}
            log.eval(step, scores | {'images_per_second': 0.0})
            assert preemption.should_stop(step)
        raise Interrupted('stopped', preemption.number)

run_command(main)
"""


@pytest.mark.slow
def test_a_reader_that_is_gone(tmp_path):
    """As in `... 2>&1 | head`: the run is told to stop, and can go on until it has saved."""
    command = [sys.executable, '-c', IN_A_PIPE, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as run:
        try:
            assert run.stdout.readline() == b'ready\n'
            run.stdout.close()
            run.stdin.close()
            assert run.wait(60) == 143
        finally:
            run.kill()
    assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize('is_ignored', [False, True])
def test_ctrl_c_while_a_command_imports(is_ignored):
    """No traceback of what it imports; no effect where SIGINT is ignored, as in the background."""
    command = [sys.executable, '-m', 'alexnet_jax.predict', '--workdir=absent', 'x.jpg']
    if is_ignored:
        command = ['bash', '-c', 'trap "" INT; exec "$@"', 'bash', *command]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as run:
        try:
            until = time.monotonic() + 60
            while 'jaxlib' not in Path(f'/proc/{run.pid}/maps').read_text():
                assert time.monotonic() < until
                time.sleep(0.01)
            run.send_signal(signal.SIGINT)
            errors = run.communicate(timeout=60)[1].decode()
        finally:
            run.kill()
    if is_ignored:
        assert run.returncode == 2
        assert errors.startswith('error: ')
    else:
        assert (run.returncode, errors) == (-signal.SIGINT, '')
