"""The training loop."""

import contextlib
import itertools
import json
import math
import shlex
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple, NoReturn, Protocol

import jax
import ml_collections
import numpy as np
from etils import epath

from alexnet_jax.errors import Diverged, Interrupted, shown
from alexnet_jax.evaluation.evaluate import evaluate, means
from alexnet_jax.evaluation.steps import Batch, make_eval_step
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.parallel import malloc, pmap
from alexnet_jax.run import checkpoint
from alexnet_jax.run.logger import Log, track
from alexnet_jax.run.signals import EvaluationStopped, PreemptionHandler
from alexnet_jax.run.trackers import NO_TRACKERS, Trackers
from alexnet_jax.training import early_stopping, hints, init_from
from alexnet_jax.training import optimizer as optimizers
from alexnet_jax.training.objective import loss_of_guessing, step_options
from alexnet_jax.training.step import (
    NO_STEP,
    TrainState,
    create_train_state,
    make_train_step,
    reset_metrics,
)


class Data(Protocol):
    """What the loop asks of a data set: `data.pipeline.Data`, or plain NumPy in tests."""

    train_size: int
    eval_size: int
    mean: np.ndarray  # float32 [H, W, 3], known once the statistics are loaded

    def load_statistics(self, workdir: str) -> None: ...
    def class_counts(self) -> np.ndarray: ...  # of the training set; for balanced weights
    def train_batches(self, start_step: int) -> Iterator[Iterable[Batch]]: ...  # parts of each step
    def eval_batches(self) -> Iterator[Batch]: ...
    def example_ids(self, step: int) -> list[str]: ...


class Due(NamedTuple):
    """What to do after a step."""

    log: bool
    save: bool
    eval: bool


def what_is_due(config: ml_collections.ConfigDict, step: int, total_steps: int) -> Due:
    """Return what a config asks for after a step; after the last, everything."""
    periods = (config.log_every, config.checkpoint_every, config.eval_every)
    return Due(*(step % period == 0 or step == total_steps for period in periods))


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str,
    data: Data,
    trackers: Trackers = NO_TRACKERS,
) -> None:
    """Train for `config.epochs`, from the newest valid checkpoint of the workdir if it has one.

    Args:
      config: A validated recipe.
      workdir: The run's workdir; it exists, and this process may write to it.
      data: Batches of both splits.
      trackers: Where records go besides the workdir.

    Raises:
      Diverged: A loss or gradient is not finite.
      Interrupted: A signal to stop was received; the state is saved.
      RunError: A checkpoint could not be saved or read, or an image is bad.
    """
    data.load_statistics(workdir)
    total_steps = optimizers.total_steps(config, data.train_size)
    schedule = optimizers.make_schedule(config, data.train_size)
    optimizer = optimizers.make_optimizer(config, schedule, data.train_size)
    model = variants.make_model(config)
    options = step_options(config, data.class_counts)
    slices = options.slices
    train_step = make_train_step(model, optimizer, data.mean, config.seed, options)
    per_class = config.per_class_recall or bool(config.data.class_weights)
    eval_step = make_eval_step(model, data.mean, per_class)
    rate = partial(optimizers.rate_at, config, schedule)
    has_stalled = partial(early_stopping.has_stalled, config.early_stopping_patience)

    with contextlib.ExitStack() as stack:
        ckpt = stack.enter_context(checkpoint.Checkpoints(workdir))
        start = ckpt.newest or 0
        sizes = (total_steps, config.batch_size, data.train_size)
        shows_top5 = config.num_classes > 5
        log = stack.enter_context(Log(workdir, start, *sizes, trackers, shows_top5))
        preemption = stack.enter_context(PreemptionHandler())
        with_ema = config.ema_decay > 0
        state = create_train_state(model, optimizer, config.image_size, config.seed, with_ema)
        state = slices.place(_continued(config, workdir, ckpt, log, model, state))
        malloc.trim_heap()
        if start and (note := hints.describe_rate_jump(config, schedule, workdir, start)):
            log.say(note)
        chance = loss_of_guessing(config, data.class_counts)
        standstill = hints.StandstillHint(config, data.train_size, chance)

        def finite_means(state: TrainState) -> dict[str, float]:
            sums = jax.device_get(state.metrics)
            if (bad := int(sums['bad_step'])) < NO_STEP:
                _stop_diverged(workdir, bad, rate(state.opt_state, bad), data)
            return means(sums)

        def score(step: int, state: TrainState) -> dict[str, float]:
            count = math.ceil(data.eval_size * config.accum_steps / config.batch_size)
            batches = track(preemption.watch(data.eval_batches()), count)
            try:
                variables = slices.gather(state.test_variables)
                scores = evaluate(eval_step, variables, batches, data.eval_size)
            except EvaluationStopped as stop:
                ckpt.wait()
                raise _interrupted(step, preemption) from stop
            log.eval(step, scores)
            return scores

        def use_scores(step: int, state: TrainState, scores: dict[str, float]) -> TrainState:
            """Remember them for ranking checkpoints; the next state, its rate lower if due."""
            ckpt.scores[step] = scores
            opt_state = optimizers.after_evaluation(
                config, state.opt_state, scores['top1'], pmap.replicate
            )
            return state.replace(opt_state=opt_state)

        if start and preemption.came_before(start):
            raise _interrupted(start, preemption)
        final_step = total_steps
        if start and what_is_due(config, start, total_steps).eval:  # saved before its evaluation
            state = use_scores(start, state, ckpt.scores.get(start) or score(start, state))
            if has_stalled(ckpt.scores):
                final_step = start

        all_parts = pmap.ahead(itertools.chain.from_iterable(data.train_batches(start)))
        for step in range(start + 1, final_step + 1):  # schedules count the steps done: step - 1
            state = train_step(state, itertools.islice(all_parts, config.accum_steps))
            log.tick(step)
            stopping = preemption.should_stop(step) and step < total_steps
            due = what_is_due(config, step, total_steps)
            if due.log:
                metrics = finite_means(state)
                log.train(step, metrics, rate(state.opt_state, step))
                if hint := standstill.after(step, metrics['loss']):
                    log.say(hint)
                state = reset_metrics(state)
            if due.save or stopping:
                finite_means(state)  # a run that has diverged is not saved
                ckpt.save(step, slices.gather(state))
                log.restart_clock(step)
            if stopping:
                ckpt.wait()  # before the handler goes: another signal must not end the save
                raise _interrupted(step, preemption)
            if due.eval:
                state = use_scores(step, state, score(step, state))
                if has_stalled(ckpt.scores):
                    final_step = step
                    break
        ckpt.wait()
        if final_step < total_steps:
            log.say(early_stopping.describe(config, final_step, total_steps))
        log.say(_closing_lines(workdir, final_step, ckpt, shows_top5))


def _continued(
    config: ml_collections.ConfigDict,
    workdir: str,
    ckpt: checkpoint.Checkpoints,
    log: Log,
    model: AlexNet,
    state: TrainState,
) -> TrainState:
    """Return what to start from: the saved state, another run's weights, or the fresh state."""
    for line in ckpt.quarantined:
        log.say(line)
    if ckpt.newest:
        state = ckpt.restore(state)
        log.say(f'{workdir}: continuing from the checkpoint of step {ckpt.newest:,}')
    elif config.init_from:
        state = init_from.load(config.init_from, workdir, model, state, log.say)
    return state


def _interrupted(step: int, preemption: PreemptionHandler) -> Interrupted:
    return Interrupted(f'stopped; step {step:,} is saved', preemption.number)


def _stop_diverged(workdir: str, step: int, rate: float, data: Data) -> NoReturn:
    """Report which step went wrong, at what learning rate, and on which examples."""
    examples = data.example_ids(step)
    record = {'step': step, 'learning_rate': rate, 'examples': examples}
    if jax.process_index() == 0:
        (epath.Path(workdir) / 'diverged.json').write_text(json.dumps(record))
    ids = ' '.join(examples[:8]) + (' ...' if len(examples) > 8 else '')
    raise Diverged(
        f'the loss or a gradient is not finite at step {step:,}, learning rate {rate:g}, '
        f'examples {ids} (all in {workdir}/diverged.json); try a lower '
        f'--config.optimizer.learning_rate in a different --workdir'
    )


def _closing_lines(
    workdir: str, total_steps: int, ckpt: checkpoint.Checkpoints, shows_top5: bool
) -> str:
    """Report final and best accuracy, and where everything is."""
    best_step = ckpt.best or total_steps
    final, best = ckpt.scores[total_steps], ckpt.scores[best_step]
    quoted = shlex.quote(shown(workdir))
    lines = [
        f'finished: {total_steps:,} steps',
        f'  final       top-1 {final["top1"]:.2%}'
        + (f'  top-5 {final["top5"]:.2%}' if shows_top5 else ''),
        f'  best        top-1 {best["top1"]:.2%}  at step {best_step:,}',
        f'  records     {workdir}/metrics.jsonl  (tensorboard --logdir={quoted})',
        f'  checkpoints {workdir}/checkpoints',
        f'  try it      python -m alexnet_jax.predict --workdir={quoted} IMAGE...',
    ]
    return '\n'.join(lines)
