"""Find a learning rate, by a range test: `python -m alexnet_jax.find_lr --config=configs/NAME.py`.

Trains for 300 steps, at a rate that rises from 1e-5 to 1 or until the loss explodes, and draws the
loss over the rate. It suggests a tenth of the rate at which the loss is lowest, and prints the
command that trains with it. The recipe's schedule and warmup are left out; all else, `init_from`,
`freeze` and overrides of the rate included, is as in training. Besides compiled steps, nothing is
written but the plot.

  python -m alexnet_jax.find_lr --config=configs/NAME.py [--output=find_lr.png] [--steps=300]
"""

import math
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import ml_collections
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from alexnet_jax import cli, files
from alexnet_jax.config import validate_training
from alexnet_jax.drawing import figures
from alexnet_jax.errors import BadInput, RunError, run_command
from alexnet_jax.parallel import processes
from alexnet_jax.parallel.runtime import configure_runtime
from alexnet_jax.run import checkpoint, remote, starting_weights
from alexnet_jax.run import workdir as workdirs
from alexnet_jax.training import init_from, lr_range
from alexnet_jax.training.hints import he_init_flag
from alexnet_jax.training.objective import loss_of_guessing

ROWS = 12  # of the table that is printed
FLOOR = 1e-12  # the lowest rate that may be asked for
OWN_FLAG = re.compile(r'--?(output|steps|lowest|highest|config\.optimizer\.learning_rate)(=.*)?')


def main() -> None:
    """Test the config on the command line."""
    cli.define_flags(workdir=None)
    flags.DEFINE_string('output', 'find_lr.png', 'Draw the losses into this new file, FILE.png.')
    flags.DEFINE_integer('steps', 300, 'Steps to train.', lower_bound=10)
    flags.DEFINE_float('lowest', 1e-5, 'The rate of the first step.', lower_bound=FLOOR)
    flags.DEFINE_float('highest', 1.0, 'The rate of the last step.', lower_bound=FLOOR)
    _, *others = cli.parse_flags(sys.argv)
    found = flags.FLAGS
    if found.config is None or others:
        raise BadInput('usage: python -m alexnet_jax.find_lr --config=configs/NAME.py')
    if not found.lowest < found.highest < math.inf:
        raise BadInput(
            f'--lowest={found.lowest:g} must be below --highest={found.highest:g}, and both finite'
        )
    cli.check_output(found.output, ('.png',))
    validate_training(found.config)
    configure_runtime(found.config.deterministic)
    validate_training(found.config, processes.count_devices())
    rates = np.geomspace(found.lowest, found.highest, found.steps)
    losses, chance = _range_test(found.config, rates)
    if len(losses) < 2:
        other = he_init_flag(found.config.edits)
        raise RunError(
            f'the loss exploded at the first rate, {rates[0]:g}; try a lower --lowest'
            f'{other and f", or {other}"}'
        )
    rates = rates[: len(losses)]
    suggestion = lr_range.suggest_rate(rates, losses, chance)
    current = found.config.optimizer.learning_rate
    files.write(Path(found.output), figures.to_png(plot(rates, losses, suggestion.rate, current)))
    other = he_init_flag(found.config.edits)
    print('\n'.join(_lines(rates, losses, suggestion, current, found.output, other)))


def _range_test(config: ml_collections.ConfigDict, rates: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the loss at each rate, up to where it explodes, and that of random guessing."""
    from alexnet_jax.data.pipeline import Data  # importing TensorFlow takes seconds

    if config.init_from:
        starting_weights.check_init_from(config)
        checkpoint.check_weights(remote.local_copy(config.init_from))
    data = Data(config)
    found = []
    with (
        tempfile.TemporaryDirectory() as folder,
        workdirs.create(folder, config, data.class_names),
    ):
        data.load_statistics(folder)
        start = partial(_start, config, folder)
        for loss in lr_range.losses(config, data, rates, start):
            found.append(loss)
            cli.show_progress(f'step {len(found)}/{len(rates)}  loss {loss:.4f}')
    cli.show_progress('')
    return np.array(found), loss_of_guessing(config, data.class_counts)


def _start(config: ml_collections.ConfigDict, folder: str, model, state):
    if not config.init_from:
        return state
    return init_from.load(config.init_from, folder, model, state, print)


def _lines(
    rates: np.ndarray,
    losses: np.ndarray,
    suggestion: lr_range.Suggestion,
    current: float,
    output: str,
    other: str,
) -> list[str]:
    """Return what to print; `other` is a flag to try if the loss did not fall, or ''."""
    averages = lr_range.smooth(losses)
    rows = np.unique(np.linspace(0, len(rates) - 1, ROWS).round().astype(int)).tolist()
    lines = ['      rate     loss   average']
    lines += [f'{rates[i]:10.2g}  {losses[i]:7.4f}  {averages[i]:8.4f}' for i in rows]
    if not suggestion.learned:
        return [
            *lines,
            f'plot       {output}',
            'the loss hardly fell, or not below that of random guessing: try more --steps or '
            f'another range{other and f", or {other}"}',
        ]
    return [
        *lines,
        f'lowest     at {suggestion.lowest:.2g}',
        f'suggested  {suggestion.rate:g}, a tenth of that (the recipe has {current:g})',
        f'plot       {output}',
        f'go on      {command(sys.argv[1:], suggestion.rate)}',
    ]


def command(arguments: Sequence[str], rate: float) -> str:
    """Return the command that trains at a rate.

    Args:
      arguments: The arguments of this command.
      rate: The learning rate.
    """
    kept, words = [], iter(arguments)
    for word in words:
        if own := OWN_FLAG.fullmatch(word):
            if own[2] is None:  # its value is the next word
                next(words, None)
            continue
        kept.append(word)
    override = f'--config.optimizer.learning_rate={rate:g}'
    return shlex.join(['python', '-m', 'alexnet_jax.main', *kept, override, '--workdir=runs/NAME'])


@figures.styled
def plot(rates: np.ndarray, losses: np.ndarray, suggested: float, current: float) -> Figure:
    """Draw the losses over the rates, and mark two rates."""
    figure = Figure(figsize=(0.8 * figures.WIDTH, 4.4))
    axes = figure.subplots()
    axes.plot(rates, losses, color='#BBBBBB', linewidth=1, label='each step')
    averages = lr_range.smooth(losses)
    axes.plot(rates, averages, color=figures.PALETTE[0], linewidth=1.8, label='average')
    for rate, color, name in (
        (suggested, figures.PALETTE[1], 'suggested'),
        (current, figures.PALETTE[2], "the recipe's"),
    ):
        axes.axvline(rate, color=color, linestyle='--', label=f'{name}, {rate:g}')
    low, high = averages.min(), averages[0]
    margin = max(high - low, 0.1)
    axes.set(xscale='log', xlabel='learning rate', ylabel='loss')
    axes.set_ylim(low - 0.3 * margin, high + margin)
    decades = 10.0 ** np.arange(np.floor(np.log10(rates[0])), np.ceil(np.log10(rates[-1])) + 1)
    axes.set_xticks(decades, [f'{decade:g}' for decade in decades])
    axes.minorticks_off()
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    return figure


if __name__ == '__main__':
    run_command(main)
