"""Checkpoints of a small made-up state."""

import numpy as np

from alexnet_jax.run.checkpoint import Checkpoints
from alexnet_jax.training.step import TrainState, zero_metrics


def state_of(seed: int, features: int = 5) -> TrainState:
    rng = np.random.default_rng(seed)

    def params():
        return {
            'conv1': {'kernel': np.float32(rng.normal(size=(3, 3, 3, 4)))},
            'fc2': {
                'kernel': np.float32(rng.normal(size=(16, features))),
                'bias': np.float32(rng.normal(size=features)),
            },
        }

    metrics = zero_metrics() | {'loss': np.float32(rng.normal()), 'top1': np.int32(seed)}
    return TrainState(np.int32(seed), params(), {}, (params(), np.int32(seed)), metrics)


def save(workdir, *scores: float | None, first: int = 1) -> None:
    """A checkpoint at steps first, first + 1, ... with these top-1 scores, None for no score."""
    with Checkpoints(str(workdir)) as ckpt:
        for step, top1 in enumerate(scores, start=first):
            ckpt.save(step, state_of(step), None if top1 is None else {'top1': top1, 'top5': 0.5})


def files(folder):
    return sorted(path for path in folder.rglob('*') if path.is_file())
