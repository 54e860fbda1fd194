"""Runs in buckets, against emulators on the loopback address, end with the bits of local runs."""

import contextlib
import json
import os
import random
import shutil
import signal
import threading
import time

import cli_runs
import numpy as np
import object_stores
import pytest
from cli_runs import assert_same_run
from helpers import assert_has

from alexnet_jax.cloud.store import Store
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.run.lease import Lease
from alexnet_jax.run.push import committed_steps

pytestmark = object_stores.MARKS

FLAGS = (
    '--config.epochs=12',  # 269 steps, more than a run takes between a line and its kill
    '--config.log_every=3',
    '--config.eval_every=30',
    '--config.checkpoint_every=10',
)
ELSEWHERE = {'host': 'elsewhere', 'machine': 'another boot', 'pid': 7, 'token': 'x'}


@pytest.fixture(scope='module')
def whole(tmp_path_factory, cache):
    """A local run that was not disturbed."""
    folder = tmp_path_factory.mktemp('buckets') / 'whole'
    cli_runs.train(folder, cache, *FLAGS)
    return folder


class Bucket:
    """A run in an emulator's bucket, and its scratch folder."""

    def __init__(self, emulator, folder, cache):
        self.url = f'{emulator.url}/runs/x'
        self.scratch = folder / 'scratch'
        self._emulator, self._folder, self._cache = emulator, folder, cache

    def start(self, *flags, scratch='scratch') -> cli_runs.Run:
        variables = {**self._emulator.environment, 'XDG_CACHE_HOME': str(self._folder / 'cache')}
        folder = self._folder / scratch
        return cli_runs.Run(folder, self._cache, *FLAGS, *flags, url=self.url, variables=variables)

    @contextlib.contextmanager
    def lost_connection(self):
        """The emulator accepts connections and does not answer."""
        self._emulator.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._emulator.process.send_signal(signal.SIGCONT)

    @property
    def store(self) -> Store:
        return Store(self.url)

    def download(self):
        """A local folder with what is in the bucket."""
        folder = self._folder / 'downloaded'
        for name in self.store.list():
            assert self.store.download(name, folder / name)
        return folder


@contextlib.contextmanager
def held(store: Store):
    """This process holds the lease, as a run does."""
    lease, ended = Lease(store), threading.Event()
    lease.acquire()

    def beat():
        while not ended.wait(1):
            lease.beat()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        lease.release()


@pytest.fixture(params=['gs', 's3'])
def bucket(request, tmp_path, cache):
    with (
        object_stores.emulator(request.param) as emulator,
        object_stores.in_this_process(emulator, tmp_path / 'cache'),
    ):
        yield Bucket(emulator, tmp_path, cache)


def test_killed_at_random_moments_equals_a_local_run(bucket, whole, full):
    """Every other kill is in an upload; after some, the next start is on another machine."""
    kills = 10 if full else 1
    rng = random.Random(bucket.url)
    for number, step in enumerate(sorted(rng.choices(range(12, 150), k=kills))):
        with bucket.start() as run:
            run.wait_for_step(step)
            with bucket.lost_connection() if number % 2 == 0 else contextlib.nullcontext():
                time.sleep(rng.uniform(0.5, 1.5))
                run.signal(signal.SIGKILL)
                run.finish()
        if number % 3 == 0:
            shutil.rmtree(bucket.scratch)
    with bucket.start() as run:
        run.wait_for_step(261)
        with bucket.lost_connection():
            time.sleep(20 if full else 3)
        code, output, errors_ = run.finish()
    assert code == 0, errors_
    assert_has(output, f'{bucket.url}/metrics.jsonl', f'--workdir={bucket.url}')
    assert str(bucket.scratch) not in output + errors_
    assert not bucket.scratch.exists()
    folder = bucket.download()
    assert_same_run(folder, whole)
    assert sorted(path.name for path in (folder / 'checkpoints').iterdir()) == sorted(
        path.name for path in (whole / 'checkpoints').iterdir()
    )
    assert json.loads(next((folder / 'lease').iterdir()).read_text())['released']
    net, expected = TrainedNet.load(bucket.url), TrainedNet.load(whole)
    assert net.step == expected.step
    np.testing.assert_array_equal(net.mean, expected.mean)


@pytest.mark.exhaustive
def test_stopped_damaged_and_resumed(bucket, whole):
    """A second run is refused; SIGTERM saves; a damaged object is quarantined, there too."""
    with held(bucket.store), bucket.start(scratch='second') as second:
        code, _, text = second.finish()
    assert code == 2
    assert_has(text, f'{bucket.url} is in use by another run', f'process {os.getpid()}')
    with bucket.start() as run:
        run.wait_for_step(12)
        run.signal(signal.SIGTERM)
        code, _, text = run.finish()
    assert code == 143, text
    *_, newest = committed_steps(bucket.store.list())
    assert f'step {newest} is saved' in text
    damaged = max(
        (name for name in bucket.store.list(f'checkpoints/{newest}') if '/d/' in name),
        key=lambda name: len(bucket.store.read(name)),
    )
    content = bytearray(bucket.store.read(damaged))
    content[len(content) // 2] ^= 1
    bucket.store.write(damaged, bytes(content))
    with bucket.start() as run:
        code, output, text = run.finish()
    assert code == 0, text
    assert_has(output, f'{bucket.url}/checkpoints/{newest} is corrupt', f'{bucket.url}/corrupt')
    assert damaged.replace('checkpoints', 'corrupt') in bucket.store.list()
    assert_same_run(bucket.download(), whole)


@pytest.mark.exhaustive
def test_a_lease_of_another_machine_is_taken_over(bucket, whole):
    bucket.store.write('lease/4', json.dumps(ELSEWHERE).encode())
    with bucket.start() as run:
        code, _, text = run.finish()
    assert code == 0, text
    assert_has(text, 'process 7 on elsewhere', '60 s')
    assert list(bucket.store.list('lease')) == ['lease/5']
    assert_same_run(bucket.download(), whole)


@pytest.mark.exhaustive
def test_two_processes(bucket, cache, tmp_path):
    """Each has its own folder; stopped in the middle, then run to the end."""
    flags = ('--config.epochs=0.9', '--num_processes=2')  # 20 steps
    for stop in (True, False):
        address = f'--coordinator_address=127.0.0.1:{cli_runs.free_port()}'
        with (
            bucket.start(*flags, address, '--process_id=0') as first,
            bucket.start(*flags, address, '--process_id=1') as second,
        ):
            if stop:
                first.wait_for_step(11)
                first.signal(signal.SIGTERM)
            for run in (first, second):
                code, _, text = run.finish()
                assert code == (143 if stop else 0), text
    cli_runs.train(tmp_path / 'local', cache, *FLAGS, flags[0], devices=2)
    assert_same_run(bucket.download(), tmp_path / 'local')
    assert not list(tmp_path.glob('scratch*/'))
