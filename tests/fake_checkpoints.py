"""Checkpoints of a small made-up state."""

import json
from pathlib import Path

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
            ckpt.save(step, state_of(step))
            if top1 is not None:
                note(workdir, ckpt, step, top1)


def note(workdir, ckpt: Checkpoints, step: int, top1: float) -> None:
    """Score a checkpoint that was saved, as the loop does: on disk first."""
    record = {'step': step, 'split': 'eval', 'top1': top1, 'top5': 0.5}
    with (Path(workdir) / 'metrics.jsonl').open('a') as file:
        file.write(json.dumps(record) + '\n')
    ckpt.scores[step] = record


def files(folder):
    return sorted(path for path in folder.rglob('*') if path.is_file())
