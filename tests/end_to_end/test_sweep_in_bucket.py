"""`python -m alexnet_jax.sweep` in a bucket of an emulator; the trials are fake."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import object_stores
import pytest
from helpers import ROOT, assert_has

from alexnet_jax.cloud.store import Store
from alexnet_jax.run.lease import Lease

pytestmark = object_stores.MARKS

SPACE = (
    "def get_space():\n    return {'optimizer.learning_rate': [0.1, 0.2, 0.3, 0.4], 'seed': [7]}\n"
)


@pytest.fixture(params=['gs', pytest.param('s3', marks=pytest.mark.exhaustive)])
def emulator(request, tmp_path):
    with (
        object_stores.emulator(request.param) as emulator,
        object_stores.in_this_process(emulator, tmp_path / 'cache'),
    ):
        yield emulator


@pytest.fixture
def sweep(emulator, tmp_path):
    """sweep(scratch) -> the process of a sweep with two trials at a time."""
    (tmp_path / 'space.py').write_text(SPACE)
    command = [sys.executable, 'tests/fake_sweep.py', '--config=configs/quickstart.py']
    command += [f'--sweep={tmp_path}/space.py', f'--workdir={emulator.url}/sweeps/x']
    command += ['--max_parallel=2']
    environ = os.environ | {'FAKE_SECONDS': '0.3', 'PYTHONPATH': str(ROOT)}

    def start(scratch, *flags):
        words = [*command, f'--scratch={tmp_path}/{scratch}', *flags]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, cwd=ROOT, env=environ, stdout=pipe, stderr=pipe, text=True)

    return start


def test_killed_and_continued_on_another_machine(sweep, emulator, tmp_path, full):
    """kill -9 while trials run; the next start has an empty scratch folder."""
    store, rng = Store(f'{emulator.url}/sweeps/x'), random.Random(0)
    for number in range(4 if full else 1):
        with sweep(f'machine{number}') as process:
            before = steps_in(store)
            while steps_in(store) == before:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 0.5))
            process.kill()
    with sweep('last') as process:
        printed, text = process.communicate()
    assert process.returncode == 0, text
    assert_has(printed, f'trials  {store.url}/trials.csv', f'--workdir={store.url}/best')
    assert str(tmp_path / 'last') not in printed + text
    assert not (tmp_path / 'last').exists()

    rows = list(csv.DictReader(store.read('trials.csv').decode().splitlines()))
    keys = ('outcome', 'optimizer.learning_rate', 'top1', 'reason', 'workdir')
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ('finished', rate, rate, '', f'{store.url}/trials/{number:03}')
        for number, rate in enumerate(('0.1', '0.2', '0.3', '0.4'))
    ]
    resumed = []
    for number in range(4):
        run = store.below(f'trials/{number:03}')
        records = [json.loads(line) for line in run.read('metrics.jsonl').splitlines()]
        assert [r['step'] for r in records if r['split'] == 'train'] == list(range(1, 11))
        starts = [json.loads(line)['start'] for line in run.read('starts.jsonl').splitlines()]
        assert starts == sorted(starts)
        resumed += starts[1:]
    assert any(resumed)  # not all from the beginning
    assert b'plotly' in store.read('index.html')


def steps_in(store: Store) -> dict[str, int]:
    """How far the trials are in the bucket."""
    found = [name for name in store.list('trials') if name.endswith('/checkpoint')]
    return {name: int(store.read(name) or 0) for name in found}


@pytest.mark.exhaustive
def test_stopped_and_a_second_one_refused(sweep, emulator, tmp_path):
    """SIGTERM: the trials save; a sweep with another plan, or where somebody is, is refused."""
    store = Store(f'{emulator.url}/sweeps/x')
    with sweep('first') as process:
        while 'trials/001/checkpoint' not in store.list():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        printed, text = process.communicate()
    assert process.returncode == 143, text
    assert_has(printed, 'stopping: the trials save and end')
    assert_has(text, 'run the same command again')
    assert not (tmp_path / 'first').exists()
    with sweep('second', '--metric=loss') as process:
        _, text = process.communicate()
    assert process.returncode == 2, text
    assert_has(text, f'{store.url} holds a different sweep', '--metric')
    assert not (tmp_path / 'second').exists()
    lease = Lease(store)
    lease.acquire()
    with sweep('third') as process:
        while 'may be in use' not in process.stderr.readline():
            assert process.poll() is None
        lease.beat()
        _, text = process.communicate()
    assert process.returncode == 2, text
    assert_has(text, f'{store.url} is in use by another run', f'process {os.getpid()}')
