"""Records as experiments leave them, made up."""

import json
from collections.abc import Sequence

from alexnet_jax.experiments.records import Record, Trial


def record(
    trial: Trial,
    error: float | None = None,
    seed: int = 0,
    state: str = 'finished',
    train: Sequence[tuple[float, float, float]] | None = None,
    evals: Sequence[tuple[float, float, float]] | None = None,
    scores: dict | None = None,
) -> Record:
    """Return a record of a trial.

    Args:
      trial, seed, state: The trial, its seed, and how it ended.
      error: The test error at the end, as a fraction; None for that of `evals`.
      train, evals: The curves; by default of one point, at the end.
      scores: What a measurement found.
    """
    end = trial.epochs
    train = [(end, 0.2, 0.5)] if train is None else list(train)
    if evals is None:
        evals = [] if error is None else [(end, error, 0.8)]
    return Record(
        trial=trial.name,
        seed=seed,
        config=trial.config,
        overrides=json.loads(json.dumps(trial.overrides)),
        epochs=end,
        epoch=train[-1][0] if train else 0.0,
        state=state,
        revision=None,
        seconds=60.0,
        train=train,
        eval=list(evals),
        scores=scores or {},
    )
