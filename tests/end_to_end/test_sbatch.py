"""`launch/slurm.sbatch` on a real Slurm of one node: two tasks of two devices, stopped twice."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster
from cli_runs import FLAGS, ROOT, assert_same_run, environment, records

pytestmark = pytest.mark.slow

# Some 10 seconds of training: signals take one or two to arrive, and must find it in the middle.
STEPS = 150
BOUND = 600  # seconds; a start takes some 15
SHORT = (
    '--config.epochs=6.69',  # 150 steps
    '--config.log_every=1',
    '--config.eval_every=50',
    '--config.checkpoint_every=25',
)
# In place of the lines that a user edits, and two tasks on the one node.
HERE = ('--partition=all', '--nodes=1', '--ntasks-per-node=2', '--gpus-per-node=0',
        '--cpus-per-task=1', '--time=60')  # fmt: skip


@pytest.fixture(scope='module')
def slurm(cache):
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    with slurm_cluster.start() as environ:
        path = f'{Path(sys.executable).parent}:{environ["PATH"]}'
        yield environ | environment(cache, devices=2) | {'PATH': path}


class Job:
    """One of launch/slurm.sbatch, in its queue."""

    def __init__(self, slurm: dict[str, str], workdir: Path, *options: str):
        self._slurm = slurm
        self._log = workdir.with_suffix('.log')
        options = (*HERE, f'--output={self._log}', *options)
        flags = (*FLAGS, *SHORT, f'--workdir={workdir}')
        self.id = self.ask('sbatch', '--parsable', *options, 'launch/slurm.sbatch', *flags)

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self._slurm, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ''

    def show(self, field: str) -> str:
        return re.search(rf'\b{field}=(\S+)', self.ask('scontrol', 'show', 'job', self.id))[1]

    def wait(self, what, *arguments) -> None:
        """Until it is true, asked twice a second."""
        until = time.monotonic() + BOUND
        while not what(*arguments):
            assert time.monotonic() < until, f'{self.show("JobState")}: {self.log()}'
            time.sleep(0.5)

    def has_reached(self, step: int) -> bool:
        assert not self.has_ended(), self.log()
        return any(int(n) >= step for n in re.findall(r'^step (\d+)/', self.log(), re.M))

    def has_gone_on(self) -> bool:
        """It has started again from a checkpoint and done a step."""
        assert not self.has_ended(), self.log()
        _, *after = self.log().split(': continuing from the checkpoint of step')
        return bool(after) and '\nstep ' in after[-1]

    def has_restarted(self, times: int) -> bool:
        return int(self.show('Restarts')) == times

    def has_ended(self) -> bool:
        return self.show('JobState') in ('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT')

    def finish(self) -> str:
        """Its log, of all its starts."""
        self.wait(self.has_ended)
        assert self.show('JobState') == 'COMPLETED', self.log()
        return self.log()


@pytest.mark.exhaustive
def test_requeued_equals_uninterrupted(slurm, tmp_path):
    uninterrupted, requeued = tmp_path / 'uninterrupted', tmp_path / 'requeued'
    log = Job(slurm, uninterrupted).finish()
    assert f'finished: {STEPS} steps' in log
    assert 'continuing' not in log

    job = Job(slurm, requeued)
    job.wait(job.has_reached, 3)
    # As --signal does before the time limit: to the tasks, not to the script, which requeues.
    job.ask('scancel', '--signal=TERM', job.id)
    job.wait(job.has_restarted, 1)
    job.wait(job.has_gone_on)
    job.ask('scontrol', 'requeue', job.id)
    log = job.finish()
    assert job.show('Restarts') == '2'
    saved = [int(step) for step in re.findall(r'^stopped; step (\d+) is saved', log, re.M)]
    assert len(saved) == 4, log  # both tasks, twice
    assert saved[0] == saved[1] < saved[2] == saved[3]
    continued = re.findall(r'continuing from the checkpoint of step (\d+)', log)
    assert [int(step) for step in continued] == saved[::2]

    assert len(records(requeued)) == STEPS + 3
    assert_same_run(requeued, uninterrupted)


def test_the_script_is_what_slurm_takes(slurm):
    """Its own lines too, but for the GPUs, which this cluster has none of."""
    lines = (ROOT / 'launch/slurm.sbatch').read_text()
    assert re.findall(r'--gpus-per-node=\S+', lines) == ['--gpus-per-node=8']
    done = subprocess.run(
        ['sbatch', '--test-only', *HERE[:4], '--cpus-per-task=1', 'launch/slurm.sbatch'],
        env=slurm, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'using 2 processors on nodes localhost in partition all' in done.stderr
