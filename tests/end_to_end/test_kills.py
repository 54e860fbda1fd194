"""kill -9 at random moments: nothing is lost but the work since the last checkpoint."""

import random
import signal
import time

import cli_runs
import pytest

FLAGS = (
    '--config.epochs=4',  # 90 steps
    '--config.log_every=3',
    '--config.eval_every=30',
    '--config.checkpoint_every=10',
)


@pytest.mark.slow
@pytest.mark.exhaustive  # one moment otherwise: that in test_buckets.py
def test_killed_at_random_moments_equals_uninterrupted(tmp_path, cache):
    rng = random.Random(0)
    cli_runs.train(tmp_path / 'whole', cache, *FLAGS)
    for step in sorted(rng.choices(range(1, 88), k=20)):
        with cli_runs.Run(tmp_path / 'killed', cache, *FLAGS) as run:
            if not run.reaches(step):  # the last kill came when all was saved, or too late
                code, _, errors = run.finish()
                assert code == 0, errors
                break
            time.sleep(rng.uniform(0, 0.3))  # into a step, a save or an evaluation
            run.signal(signal.SIGKILL)
            run.finish()
    cli_runs.train(tmp_path / 'killed', cache, *FLAGS)

    train = cli_runs.records(tmp_path / 'killed', 'train')
    assert [r['step'] for r in train] == list(range(3, 91, 3))
    cli_runs.assert_same_run(tmp_path / 'killed', tmp_path / 'whole')
