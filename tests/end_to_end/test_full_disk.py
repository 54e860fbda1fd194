"""A checkpoint that does not fit: one line, exit code 1, the earlier checkpoints stay."""

import resource

import cli_runs
import pytest
from cli_runs import assert_same_state, final_state, records
from etils import epath

from alexnet_jax.run.manifest import find_corruption
from alexnet_jax.run.saved import find_steps

FLAGS = (
    '--config.epochs=0.9',  # 20 steps
    '--config.eval_every=10',
    '--config.checkpoint_every=5',
)

pytestmark = pytest.mark.slow


@pytest.mark.exhaustive
def test_a_save_without_room(tmp_path, cache):
    """No file may grow above 64 KB: the checkpoint of step 10, of 1.3 MB, cannot be written."""
    whole, workdir = tmp_path / 'whole', tmp_path / 'run'
    cli_runs.train(whole, cache, *FLAGS)
    with cli_runs.Run(workdir, cache, *FLAGS, '--config.log_every=1') as run:
        run.wait_for_step(7)
        limit = 64 * 1024
        resource.prlimit(run._process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        code, _, errors = run.finish()
    assert code == 1
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith(f'error: checkpoint could not be saved: {workdir}/checkpoints: ')
    assert 'File too large' in errors
    assert find_steps(str(workdir)) == [5]
    assert find_corruption(epath.Path(workdir) / 'checkpoints' / '5') is None
    cli_runs.train(workdir, cache, *FLAGS, '--config.log_every=1')
    have, want = final_state(workdir), final_state(whole)
    keep = [name for name in want if not name.startswith("['metrics']")]  # of another log_every
    assert_same_state({n: have[n] for n in keep}, {n: want[n] for n in keep})
    assert records(workdir, 'eval') == records(whole, 'eval')


@pytest.mark.exhaustive
def test_a_record_without_room(tmp_path, cache):
    """metrics.jsonl may not grow above its size after some steps."""
    workdir = tmp_path / 'run'
    with cli_runs.Run(workdir, cache, *FLAGS, '--config.log_every=1') as run:
        run.wait_for_step(2)
        resource.prlimit(run._process.pid, resource.RLIMIT_FSIZE, (900, resource.RLIM_INFINITY))
        code, _, errors = run.finish()
    assert code == 1
    assert len(errors.splitlines()) == 1, errors
    assert 'metrics.jsonl or the events next to it: File too large' in errors
    cli_runs.train(workdir, cache, *FLAGS, '--config.log_every=1')
    assert [r['step'] for r in records(workdir, 'train')] == list(range(1, 21))
