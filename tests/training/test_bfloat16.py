"""Training in bfloat16 on real images: its losses differ from float32's no more than seeds do."""

import numpy as np
import pytest
from cli_runs import records
from helpers import ROOT

from alexnet_jax.cli import load_recipe
from alexnet_jax.data.pipeline import Data
from alexnet_jax.training.loop import train_and_evaluate


def last_loss(workdir, steps: int, **changes) -> float:
    """Train digits for some steps; return the mean training loss of the last eighth of them."""
    config = load_recipe(f'{ROOT}/configs/quickstart.py')
    config.update(changes)
    config.optimizer.warmup_epochs = 1.0  # with the recipe's 4 it learns nothing in a few steps
    data = Data(config)
    config.epochs = steps * config.batch_size / data.train_size
    config.log_every = steps // 8
    config.eval_every = config.checkpoint_every = steps
    train_and_evaluate(config, str(workdir), data)
    return [record['loss'] for record in records(workdir) if record['split'] == 'train'][-1]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_mean_loss_in_bfloat16_is_within_the_spread_of_float32(tmp_path):
    steps, seeds = 400, 3
    losses = {
        dtype: [
            last_loss(tmp_path / f'{dtype}{seed}', steps, dtype=dtype, seed=seed)
            for seed in range(seeds)
        ]
        for dtype in ('float32', 'bfloat16')
    }
    wide, narrow = losses['float32'], losses['bfloat16']
    assert narrow != wide
    assert abs(np.mean(narrow) - np.mean(wide)) <= max(wide) - min(wide)  # 0.002 <= 0.047 seen
