"""Weights and scores of trained nets."""

from typing import Any

import jax
import numpy as np

from alexnet_jax.evaluation import scores
from alexnet_jax.evaluation.ensemble import fit_batch
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.experiments.measure import Task
from alexnet_jax.run import saved


def load_last(workdir: str) -> TrainedNet:
    """Return the net of a run's last checkpoint: the best one would be chosen by the test set."""
    return TrainedNet.load(workdir, max(saved.find_steps(workdir)))


def kernel_means(task: Task) -> dict[str, dict[str, float]]:
    """Return the mean absolute weight of each layer, as the authors' code prints it.

    Options: trials (their names, in the order of the nets).

    Returns:
      {trial: {layer: mean}}.
    """
    return {
        trial: {
            layer: float(np.abs(params['kernel']).mean())
            for layer, params in load_last(workdir).params.items()
        }
        for trial, workdir in zip(task.options['trials'], task.nets, strict=True)
    }


def test_scores(task: Task) -> dict[str, Any]:
    """Return the test errors in percent of the averages of one net, of two, ... of all.

    Options: eval_ops (None for those of the runs).
    """
    from alexnet_jax.data.pipeline import Data  # importing TensorFlow takes seconds

    options = task.options
    nets = [load_last(workdir) for workdir in task.nets]
    config = nets[0].config
    config.data.data_dir = task.data_dir
    config.data.eval_ops = options['eval_ops'] or config.data.eval_ops
    fit_batch(config, jax.local_device_count())
    tallies = [scores.Tally.of(config.num_classes) for _ in nets]
    for batch in Data(config).eval_batches():
        votes = jax.device_get([net.predict_step(batch['image']) for net in nets])
        for members, tally in enumerate(tallies, 1):
            tally.add(scores.average(votes[:members]), batch['label'], batch['mask'])
    return {'errors': [100 * tally.figures()['top1_error'] for tally in tallies]}
