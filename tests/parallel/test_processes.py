"""What an error of one of several processes does. `tests/end_to_end` starts and kills real ones."""

import os
import signal
import socket
import subprocess
import sys

import jax
import pytest
from cli_runs import free_port
from helpers import ROOT

from alexnet_jax.errors import BadInput, Diverged, Interrupted, NoDevice
from alexnet_jax.parallel import processes
from alexnet_jax.parallel.launchers import PLATFORM, Cluster
from alexnet_jax.parallel.processes import ProcessGroup, fails_alone, is_lost_process

# Raised by jaxlib 0.10.2 in a process whose peer was killed, and by a broken program.
GLOO = (
    'UNKNOWN: Gloo all-reduce failed: [external/gloo/gloo/transport/tcp/pair.cc:538] Read error '
    '[127.0.0.1]:48053: Connection reset by peer'
)
BARRIER = (
    'INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 1 heartbeat '
    'timeout. This indicates that the remote task has failed, got preempted, or crashed'
)
FULL = 'RESOURCE_EXHAUSTED: Out of memory allocating 1099511627776 bytes.'


class Exited(BaseException):
    """Stands for the end of the process; its argument is the exit code."""


@pytest.fixture
def start(monkeypatch):
    """start(cluster, timeout=1): enter a group; its handlers go after the test."""
    monkeypatch.setattr(processes, '_handle_abort', lambda handler: None)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    groups = []

    def enter(cluster: Cluster, timeout: int = 1) -> None:
        groups.append(ProcessGroup(cluster, timeout).__enter__())

    yield enter
    for group in groups:  # not when it is collected, perhaps in another thread
        group._signals.close()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def second_of_two(monkeypatch):
    """Make this look like process 1 of 2."""

    def end(code):
        raise Exited(code)

    monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    monkeypatch.setattr(os, '_exit', end)


def end_with(error: BaseException, cluster: Cluster | None = None) -> int:
    """Return the exit code of a process in which an error leaves the group."""
    with pytest.raises(Exited) as exited, ProcessGroup(cluster, timeout=1):
        raise error
    return exited.value.args[0]


@pytest.mark.parametrize(('message', 'is_lost'), [(GLOO, True), (BARRIER, True), (FULL, False)])
def test_errors_that_mean_a_lost_process(message, is_lost):
    assert is_lost_process(jax.errors.JaxRuntimeError(message)) == is_lost
    assert not is_lost_process(ValueError(message))


@pytest.mark.usefixtures('second_of_two')
class TestOneOfSeveral:
    def test_an_expected_error_is_one_line(self, capsys):
        assert end_with(BadInput('no such\nfolder')) == 2
        who = f'process 1 of 2 on {socket.gethostname()}'
        assert capsys.readouterr().err == f'error: {who}: no such folder\n'

    def test_an_unexpected_error_has_its_traceback(self, capsys):
        assert end_with(ValueError('a bug')) == 1
        first, *_, last = capsys.readouterr().err.splitlines()
        assert first == 'Traceback (most recent call last):'
        assert last == f'error: process 1 of 2 on {socket.gethostname()} failed'

    def test_a_full_device_is_one_line(self, capsys):
        assert end_with(jax.errors.JaxRuntimeError(FULL)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f'error: process 1 of 2 on {socket.gethostname()}: out of memory: ')
        assert FULL in line

    @pytest.mark.parametrize(('args', 'code'), [((), 130), ((signal.SIGTERM,), 143)])
    def test_an_interrupted_process(self, capsys, args, code):
        assert end_with(KeyboardInterrupt(*args)) == code
        assert capsys.readouterr().err == 'interrupted\n'

    def test_a_lost_process(self, capsys):
        assert end_with(jax.errors.JaxRuntimeError(GLOO)) == 1
        assert capsys.readouterr().err == f'{GLOO}\n{processes.LOST}\n'

    @pytest.mark.parametrize(
        ('cluster', 'who'),
        [
            (Cluster('Slurm', num_processes=4, process_id=1), 'process 1 of 4'),
            (Cluster('Kubernetes'), 'the process'),
        ],
    )
    def test_a_device_that_does_not_start(self, capsys, monkeypatch, cluster, who):
        """JAX cannot tell how many processes there are: it counts them by their devices."""

        def start():
            raise AssertionError

        monkeypatch.setattr(jax, 'process_count', start)
        monkeypatch.setattr(jax, 'process_index', start)
        monkeypatch.setattr(ProcessGroup, '_start', lambda *_: None)
        monkeypatch.setattr(processes, 'GRACE_PERIOD', 0)
        assert end_with(BadInput('JAX found no devices'), cluster) == 2
        line = f'error: {who} on {socket.gethostname()}: JAX found no devices\n'
        assert capsys.readouterr().err == line

    @pytest.mark.parametrize('error', [Diverged('nan'), Interrupted('stopped', 15)])
    def test_what_every_process_raises_passes(self, error):
        with pytest.raises(type(error)), ProcessGroup(None, timeout=1):
            raise error

    def test_fails_alone(self):
        assert fails_alone(OSError())
        assert not fails_alone(Diverged('nan'))
        assert fails_alone(KeyboardInterrupt())
        assert not fails_alone(None)


def test_hosts_with_different_numbers_of_devices(monkeypatch):
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    devices = jax.local_devices()
    monkeypatch.setattr(jax, 'local_devices', lambda i=0: [*devices, *devices][: (8, 4)[i]])
    with pytest.raises(BadInput, match=r'different numbers of devices \(8, 4\)'):
        processes.count_devices()
    monkeypatch.setattr(jax, 'local_devices', lambda i=0: devices)
    assert processes.count_devices() == jax.device_count()


@pytest.mark.parametrize('error', [AssertionError(), RuntimeError('no CUDA')])
def test_no_device(monkeypatch, error):
    def count():
        raise error

    monkeypatch.setattr(jax, 'device_count', count)
    monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
    with pytest.raises(BadInput, match=f'JAX found no devices: {error or "JAX_PLATFORMS=cuda"}'):
        processes.count_devices()


@pytest.mark.parametrize('error', [AssertionError(), RuntimeError('no CUDA')])
def test_no_device_for_a_trial(monkeypatch, error):
    """The machine is at fault, and not the trial, which another start may finish."""

    def start():
        raise error

    monkeypatch.setattr(jax, 'device_count', start)
    monkeypatch.setattr(jax, 'local_devices', start)
    monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
    monkeypatch.setenv(PLATFORM, 'gpu')
    reason = str(error) or 'JAX_PLATFORMS=cuda'
    with pytest.raises(NoDevice, match=f'was given a GPU, which JAX could not start: {reason}'):
        processes.count_devices()


@pytest.mark.parametrize(
    ('takes_all', 'environ', 'cuda'),
    [
        (True, {}, '2,3'),
        (True, {'JAX_LOCAL_DEVICE_IDS': '0'}, '0'),
        (False, {}, '0'),
    ],
)
def test_gpus_that_the_user_chose(monkeypatch, start, takes_all, environ, cuda):
    """In `initialize`, JAX leaves a process of a launcher one GPU."""
    names = ('jax_cuda_visible_devices', 'jax_rocm_visible_devices')
    before = [jax.config.values[name] for name in names]

    def initialize(*_, **__):
        for name in names:
            jax.config.update(name, '0')

    monkeypatch.setattr(jax.distributed, 'initialize', initialize)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster('Slurm', num_processes=2, process_id=1, takes_all_gpus=takes_all)
    try:
        jax.config.update('jax_cuda_visible_devices', '2,3')
        start(cluster)
        found = [jax.config.values[name] for name in names]
    finally:
        for name, value in zip(names, before, strict=True):
            jax.config.update(name, value)
    assert found == [cuda, 'all' if cuda == '2,3' else '0']


def test_a_lost_process_is_noticed_in_time(monkeypatch, start):
    """Within 90 seconds, says docs/reliability.md; JAX takes some after the last heartbeat."""
    given = {}
    monkeypatch.setattr(
        jax.distributed, 'initialize', lambda *args, **named: given.update(named, args=args)
    )
    start(Cluster('the flags', 'host:1', 2, 1), 7)
    assert given['args'] == ('host:1', 2, 1)
    assert given['initialization_timeout'] == 7
    assert given['heartbeat_timeout_seconds'] <= 60


@pytest.mark.parametrize(
    ('cluster', 'environ', 'ids', 'method'),
    [
        (Cluster('Open MPI', 'h:1', 2, 1, takes_all_gpus=False, local_id=1), {}, [1], 'deactivate'),
        (
            Cluster('Open MPI', 'h:1', 2, 1, takes_all_gpus=False, local_id=1),
            {'JAX_LOCAL_DEVICE_IDS': '3'},  # the user's choice, which JAX reads
            None,
            'deactivate',
        ),
        (Cluster('Slurm', None, 2, 0, takes_all_gpus=False, local_id=0), {}, [0], None),
        (Cluster('the flags', 'h:1', 2, 0), {}, None, 'deactivate'),
        (Cluster('Kubernetes'), {}, None, None),
    ],
)
def test_what_jax_is_told(monkeypatch, start, cluster, environ, ids, method):
    """It asks a launcher only for what is not known here."""
    given = {}
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *_, **named: given.update(named))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    start(cluster)
    assert given['local_device_ids'] == ids
    assert given['cluster_detection_method'] == method


ALONE_IN_A_CLUSTER = """
import signal, sys, time
from alexnet_jax.errors import run_command
from alexnet_jax.parallel.launchers import Cluster
from alexnet_jax.parallel.processes import ProcessGroup

def main():
    with ProcessGroup(Cluster('x', sys.argv[1], 1, 0), 60):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.1)
        print('still here')

run_command(main)
"""


@pytest.mark.slow
def test_sigterm_outside_the_training_loop():
    """JAX's own handler would only note it."""
    command = [sys.executable, '-c', ALONE_IN_A_CLUSTER, f'127.0.0.1:{free_port()}']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, '')
    assert done.stderr.splitlines()[-1] == 'interrupted'


def test_barriers_of_different_places_do_not_match(monkeypatch):
    names = []
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(processes.multihost_utils, 'sync_global_devices', names.append)
    processes.wait_for_all()
    processes.wait_for_all('checkpoints verified')
    assert names == ['wait_for_all', 'checkpoints verified']


@pytest.mark.parametrize('is_ignored', [False, True])
def test_ctrl_c_while_processes_meet(monkeypatch, start, is_ignored):
    """It ends the process at once, unless the shell made it ignore Ctrl-C."""
    found = []
    monkeypatch.setattr(
        jax.distributed,
        'initialize',
        lambda *_, **__: found.append(signal.getsignal(signal.SIGINT)),
    )
    before = signal.getsignal(signal.SIGINT)
    handler = signal.SIG_IGN if is_ignored else signal.default_int_handler
    try:
        signal.signal(signal.SIGINT, handler)
        start(Cluster('Slurm', num_processes=2, process_id=1))
        at_once = (signal.SIG_IGN, signal.SIG_DFL)
        assert (signal.getsignal(signal.SIGINT) in at_once) == is_ignored
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == [signal.SIG_IGN if is_ignored else signal.SIG_DFL]


def test_errors_of_a_single_process_pass():
    assert not fails_alone(OSError())
    with pytest.raises(BadInput, match='no such folder'), ProcessGroup(None, timeout=1):
        raise BadInput('no such folder')
