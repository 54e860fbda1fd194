"""Sweeps on a real Slurm of one node; the trials are fake."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster
from helpers import ROOT

pytestmark = pytest.mark.slow

pytest.importorskip('submitit', reason='needs submitit: pip install -r tests/requirements.txt')

SPACE = "def get_space():\n    return {'optimizer.learning_rate': [0.1, 0.2, 0.3]}\n"


@pytest.fixture(scope='module')
def cluster():
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    with slurm_cluster.start() as environ:
        yield environ


class Sweep:
    """The command on Slurm, two jobs at a time, in a process of its own."""

    def __init__(self, folder: Path, cluster: dict[str, str], *flags: str, seconds: float = 0.3):
        (folder / 'space.py').write_text(SPACE)
        self._command = [
            sys.executable, 'tests/fake_sweep.py', '--config=configs/quickstart.py',
            f'--sweep={folder}/space.py', f'--workdir={folder}/sweep', '--backend=slurm',
            '--max_parallel=2', '--sbatch=cpus-per-task=1', *flags,
        ]  # fmt: skip
        self._environ = cluster | {'PYTHONPATH': str(ROOT), 'FAKE_SECONDS': str(seconds)}
        self._folder = folder

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for_step(self, trial: int, step: int) -> None:
        path = self._folder / f'sweep/trials/{trial:03}/checkpoint'
        end = time.monotonic() + 180
        while not path.exists() or int(path.read_text()) < step:
            assert time.monotonic() < end
            time.sleep(0.05)

    def starts(self, trial: int) -> list[dict]:
        path = self._folder / f'sweep/trials/{trial:03}/starts.jsonl'
        return [json.loads(line) for line in path.read_text().splitlines()]

    def jobs(self) -> list[str]:
        """Numbers of those in the queue, by the names of their trials."""
        command = ['squeue', '--noheader', '--format=%j %i', '--sort=j']
        output = subprocess.run(command, env=self._environ, capture_output=True, text=True).stdout
        return [line.split()[1] for line in output.splitlines()]

    def scancel(self, *arguments: str) -> None:
        subprocess.run(['scancel', *arguments], env=self._environ, check=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def test_killed_jobs_and_a_killed_sweep(tmp_path, cluster):
    """What was preempted goes on where it saved; what ran on or ended meanwhile is found."""
    sweep = Sweep(tmp_path, cluster)
    with sweep.start() as process:
        sweep.wait_for_step(0, 2)
        sweep.wait_for_step(1, 2)
        sweep.scancel('--signal=TERM', sweep.jobs()[0])  # what preemption sends
        process.send_signal(signal.SIGKILL)
    with sweep.start() as process:
        output = finish(process)
    assert 'best    trial 2, top1 0.3000' in output
    assert [len(sweep.starts(n)) for n in range(3)] == [2, 1, 1]
    assert sweep.starts(0)[1]['start'] >= 2
    assert not list(tmp_path.glob('sweep/trials/*/slurm_job'))
    for trial in range(3):
        environ = sweep.starts(trial)[0]['environ']
        assert (environ['OMP_NUM_THREADS'], 'SLURM_JOB_ID' in environ) == ('1', False)


def test_a_job_that_is_lost_or_cancelled_is_submitted_again(tmp_path, cluster):
    sweep = Sweep(tmp_path, cluster)
    with sweep.start() as process:
        sweep.wait_for_step(1, 2)
        first, second = sweep.jobs()
        sweep.scancel(first)
        for path in Path('/proc').glob('[0-9]*/environ'):  # as when the node is lost
            with contextlib.suppress(OSError):
                found = path.read_bytes().split(b'\0')
                wanted = f'SLURM_JOB_ID={second}', f'SLURM_CONF={cluster["SLURM_CONF"]}'
                if all(line.encode() in found for line in wanted):
                    os.kill(int(path.parent.name), signal.SIGKILL)
        output = finish(process)
    assert 'trial 1: exit code 137; restarting it' in output
    assert 'trial 0: exit code 143; restarting it' in output
    assert [len(sweep.starts(n)) for n in range(3)] == [2, 2, 1]


def test_ctrl_c_saves(tmp_path, cluster):
    sweep = Sweep(tmp_path, cluster, seconds=1)
    with sweep.start() as process:
        sweep.wait_for_step(0, 1)
        sweep.wait_for_step(1, 1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=180)
    assert process.returncode == 130
    assert 'run the same command again to continue' in output
    assert sweep.jobs() == []
    for trial in (0, 1):
        assert len(sweep.starts(trial)) == 1


def test_what_slurm_refuses_starts_nothing(tmp_path, cluster):
    for flag, message in (
        ('--sbatch=partition=gpus', 'invalid partition specified: gpus'),
        ('--devices_per_trial=2', 'no node of this Slurm cluster has more than 0 GPUs'),
    ):
        with Sweep(tmp_path, cluster, flag).start() as process:
            output, _ = process.communicate(timeout=180)
        assert (process.returncode, output.count('\n')) == (2, 1), output
        assert message in output
    assert not (tmp_path / 'sweep').exists()
