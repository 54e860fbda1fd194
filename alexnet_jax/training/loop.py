"""The training loop."""

import contextlib
import itertools
import json
import math
from collections.abc import Iterator
from typing import Protocol

import jax
import ml_collections
import numpy as np
from etils import epath

from alexnet_jax.errors import Diverged, Interrupted
from alexnet_jax.evaluation import steps
from alexnet_jax.evaluation.evaluate import evaluate, means
from alexnet_jax.model import variants
from alexnet_jax.parallel import pmap, processes
from alexnet_jax.run import checkpoint
from alexnet_jax.run.logger import Log, track
from alexnet_jax.run.signals import EvaluationStopped, PreemptionHandler
from alexnet_jax.training import optimizer
from alexnet_jax.training.step import (
    NO_STEP,
    TrainState,
    init_state,
    make_train_step,
    reset_metrics,
)


class Data(Protocol):
    """What the loop asks of a data set: `data.pipeline.Data`, or plain NumPy in tests."""

    train_size: int
    eval_size: int
    mean: np.ndarray  # float32 [H, W, 3], known once the statistics are loaded

    def load_statistics(self, workdir: str) -> None: ...
    # A step takes `config.accum_steps` of them.
    def train_batches(self, start_step: int) -> Iterator[steps.Batch]: ...
    def eval_batches(self) -> Iterator[steps.Batch]: ...
    def example_ids(self, step: int) -> list[str]: ...


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: str, data: Data) -> None:
    """Train for `config.epochs`, from the newest sound checkpoint of the workdir if it has one.

    Args:
      config: a validated recipe.
      workdir: of the run; it exists and is this process's to write.
      data: batches of both splits.

    Raises:
      Diverged: a loss or gradient is not finite.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
      RunError: a checkpoint could not be saved or read, or an image is bad.
    """
    data.load_statistics(workdir)
    total_steps = optimizer.total_steps(config, data.train_size)
    schedule = optimizer.make_schedule(config, data.train_size)
    transform = optimizer.make_optimizer(config, schedule, data.train_size)
    model = variants.make_model(config)
    train_step = make_train_step(model, transform, data.mean, config.seed, config.accum_steps)
    eval_step = steps.make_eval_step(model, data.mean)

    def is_due(step: int, every: int) -> bool:
        return step % every == 0 or step == total_steps

    def finite_means(state: TrainState) -> dict[str, float]:
        sums = jax.device_get(state.metrics)
        if (bad := int(sums['bad_step'])) < NO_STEP:
            _stop_diverged(workdir, bad, rate(state, bad), data)
        return means(sums)

    def rate(state: TrainState, step: int) -> float:
        return optimizer.rate_at(config, schedule, state.opt_state, step)

    with contextlib.ExitStack() as stack:
        ckpt = stack.enter_context(checkpoint.Checkpoints(workdir))
        start = ckpt.newest or 0
        log = stack.enter_context(
            Log(workdir, start, total_steps, config.batch_size, data.train_size)
        )
        stop = stack.enter_context(PreemptionHandler())
        stack.enter_context(processes.abort_on_error())  # the last: before any other cleans up
        for line in ckpt.quarantined:
            log.say(line)
        state = init_state(model, transform, config.image_size, config.seed)
        if start:
            state = ckpt.restore(state)
            log.say(f'{workdir}: continuing from the checkpoint of step {start:,}')
        elif config.init_from:
            state = _start_from(config.init_from, state, log)
        state = pmap.replicate(state)

        def score(step: int) -> dict[str, float] | None:
            """None if a signal cut it short: the next start scores this step before it goes on."""
            nonlocal state
            count = math.ceil(data.eval_size * config.accum_steps / config.batch_size)
            batches = track(stop.watch(data.eval_batches()), count)
            try:
                scores = evaluate(eval_step, state.variables, batches, data.eval_size)
            except EvaluationStopped:
                return None
            log.eval(step, scores)
            opt_state = optimizer.after_evaluation(
                config, state.opt_state, scores['top1'], pmap.replicate
            )
            state = state.replace(opt_state=opt_state)
            return scores

        was_scored = not start or bool(checkpoint.read_scores(workdir, start))
        if is_due(start, config.eval_every) and not was_scored:
            if not (scores := score(start)):
                raise Interrupted(f'stopped; step {start:,} is saved', stop.number)
            ckpt.add_scores(state, scores)

        parts = data.train_batches(start)
        for step in range(start + 1, total_steps + 1):
            state = train_step(state, itertools.islice(parts, config.accum_steps))
            log.tick(step)
            if is_due(step, config.log_every):
                log.train(step, finite_means(state), rate(state, step))
                state = reset_metrics(state)
            is_eval = is_due(step, config.eval_every)
            scores = score(step) if is_eval else None
            is_cut = is_eval and not scores
            stopping = stop.requested(step) and (step < total_steps or is_cut)
            if is_due(step, config.checkpoint_every) or stopping:
                finite_means(state)  # a run that has diverged is not saved
                ckpt.save(step, state, scores)
                log.stop_clock()
            if stopping:
                raise Interrupted(f'stopped; step {step:,} is saved', stop.number)
        ckpt.wait()
        log.say(_closing_lines(workdir, total_steps))


def _start_from(other: str, state: TrainState, log: Log) -> TrainState:
    """Take the weights of another run's best checkpoint, but for a head of another size."""
    step = checkpoint.best_step(other)
    found = checkpoint.load_variables(other, step)
    params, batch_stats = dict(state.params), dict(state.batch_stats)
    for name, layer in params.items():
        if name not in found['params']:
            log.say(f'{name} is not in {other}: it starts afresh')
        elif jax.tree.map(np.shape, found['params'][name]) == jax.tree.map(np.shape, layer):
            params[name] = found['params'][name]
            if name in batch_stats:
                batch_stats[name] = found['batch_stats'][name]
        else:
            log.say(f'{name} has another size than in {other}: it starts afresh')
    log.say(f'starting from the weights of {other}, step {step:,}')
    return state.replace(params=params, batch_stats=batch_stats)


def _stop_diverged(workdir: str, step: int, rate: float, data: Data) -> None:
    """Say which step went wrong, at what rate, on which examples."""
    record = {
        'step': step,
        'learning_rate': rate,
        'examples': data.example_ids(step),
    }
    if jax.process_index() == 0:
        (epath.Path(workdir) / 'diverged.json').write_text(json.dumps(record))
    ids = ' '.join(record['examples'][:8]) + (' ...' if len(record['examples']) > 8 else '')
    raise Diverged(
        f'the loss or a gradient is not finite at step {step:,}, learning rate '
        f'{record["learning_rate"]:g}, examples {ids} (all in {workdir}/diverged.json); '
        f'try a lower --config.optimizer.learning_rate in another --workdir'
    )


def _closing_lines(workdir: str, total_steps: int) -> str:
    """Final and best accuracy, and where everything is."""
    scores = {
        step: checkpoint.read_scores(workdir, step) for step in checkpoint.find_steps(workdir)
    }
    final, best = scores[total_steps], checkpoint.best_step(workdir)
    lines = [
        f'finished: {total_steps:,} steps',
        f'  final       top-1 {final["top1"]:.2%}  top-5 {final["top5"]:.2%}',
        f'  best        top-1 {scores[best]["top1"]:.2%}  at step {best:,}',
        f'  records     {workdir}/metrics.jsonl  (tensorboard --logdir={workdir})',
        f'  checkpoints {workdir}/checkpoints',
        f'  try it      python -m alexnet_jax.predict --workdir={workdir} IMAGE...',
    ]
    return '\n'.join(lines)
