"""Measure the training step and the input pipeline.

  python -m alexnet_jax.benchmark step --config=configs/NAME.py [--peer=torch,plain]
  python -m alexnet_jax.benchmark data --config=configs/NAME.py [--peer=flax] [--also=NAME,...]
  python -m alexnet_jax.benchmark save --config=configs/NAME.py

`step` times training and scoring on images in memory: no data set is needed. `data` times the
batches that training takes, `save` what a checkpoint per 100 steps costs it. Everything that is
compared takes turns in one run; the figures are medians over the repeats. On a machine that does
other work they mean nothing.
"""

import importlib.util
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
from absl import flags

from alexnet_jax import cli, files
from alexnet_jax.benchmark import workers
from alexnet_jax.config import validate
from alexnet_jax.errors import BadInput, run_command
from alexnet_jax.model import variants
from alexnet_jax.model.shapes import forward_flops, training_flops
from alexnet_jax.parallel import compilation, malloc

PEERS = {'step': ('torch', 'plain'), 'data': ('flax',), 'save': ()}


def benchmark_step(config: ml_collections.ConfigDict, options: Sequence[str]) -> dict:
    """Time training and scoring; prints the tables and returns the figures."""
    layers = variants.build(config.variant, config.edits, config.num_classes)
    figures = {'config': json.loads(config.to_json()), 'device': jax.devices()[0].device_kind}
    for task, count_flops in (('train', training_flops), ('forward', forward_flops)):
        flops = count_flops(layers, config.image_size)
        names = ['alexnet_jax', 'matmul', *(['the loop'] if task == 'train' else [])]
        if 'plain' in flags.FLAGS.peer:
            names.append('plain JAX')
        if 'torch' in flags.FLAGS.peer:
            names += ['PyTorch eager', 'PyTorch tuned']
            names += ['PyTorch compiled'] * (jax.default_backend() == 'gpu')
        timed, cold = _take_turns(names, task, options)
        figures[task] = _figures(timed, config.batch_size, flops) | {'compile_seconds': cold}
        _print(task, config, figures[task], flops)
    return figures


def _take_turns(
    names: Sequence[str], task: str, options: Sequence[str]
) -> tuple[dict[str, workers.Contender], float]:
    """Every contender with its turns taken, and what compiling took without a cache."""
    timed: dict[str, workers.Contender] = {}
    with tempfile.TemporaryDirectory() as cache:
        try:
            with workers.Contender('alexnet_jax', task, options, cache) as first:
                cold = first.compile_seconds
            for name in names:
                _progress(f'{task}: starting {name}')
                timed[name] = workers.Contender(name, task, options, cache)
            for turn in range(flags.FLAGS.repeats):
                for name, contender in timed.items():
                    _progress(f'{task}: turn {turn + 1} of {flags.FLAGS.repeats}, {name}')
                    contender.take_turn()
        finally:
            _progress('')
            for contender in timed.values():
                contender.__exit__()
    return timed, cold


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f'\r\033[K{line}', end='', file=sys.stderr, flush=True)


def _figures(timed: dict[str, workers.Contender], batch_size: int, flops: int) -> dict:
    """Rates and ratios; a ratio is taken turn by turn, so that a drift of the machine cancels."""
    limit = [2 * workers.matmul_size() ** 3 / s / flops for s in timed['matmul'].seconds]
    rates = {
        name: [batch_size / seconds for seconds in contender.seconds]
        for name, contender in timed.items()
        if name != 'matmul'
    }
    ours = rates['alexnet_jax']

    def entry(name: str) -> dict:
        shares = [rate / most for rate, most in zip(rates[name], limit, strict=True)]
        return {
            'images_per_second': statistics.median(rates[name]),
            'spread': [min(rates[name]), max(rates[name])],
            'share_of_limit': statistics.median(shares),
            'peak_gib': timed[name].peak_gib,
        }

    peers = {
        name: entry(name)
        | {'ratio': statistics.median(a / b for a, b in zip(ours, rate, strict=True))}
        for name, rate in rates.items()
        if name != 'alexnet_jax'
    }
    return entry('alexnet_jax') | {
        'cached_compile_seconds': timed['alexnet_jax'].compile_seconds,
        'limit': statistics.median(limit),
        'peers': peers,
    }


def _print(task: str, config: ml_collections.ConfigDict, found: dict, flops: int) -> None:
    network = ', '.join([config.variant, *config.edits])
    print(f'{task}: {network}, batch {config.batch_size}, {config.dtype}')
    print(f'{"":18} images/s  {"spread":>15}  of the limit  memory GiB  alexnet_jax is')
    for name, row in {'alexnet_jax': found, **found['peers']}.items():
        ratio = f'{row["ratio"]:.2f} x' if 'ratio' in row else ''
        print(
            f'{name:18} {row["images_per_second"]:8,.1f}  {_range(row["spread"]):>15}  '
            f'{row["share_of_limit"]:12.0%}  {row["peak_gib"]:10.2f}  {ratio:>14}'
        )
    print(
        f'{"limit":18} {found["limit"]:8,.1f}  {flops / 1e9:.2f} GFLOP an image at '
        f"{found['limit'] * flops / 1e9:,.0f} GFLOP/s, a matrix product's rate"
    )
    print(
        f'compiled in {found["compile_seconds"]:.1f} s, from the cache in '
        f'{found["cached_compile_seconds"]:.1f} s\n',
        flush=True,
    )


def benchmark_data(config: ml_collections.ConfigDict) -> dict:
    """Time the training batches of the config's data and of `--also`; prints and returns."""
    from alexnet_jax.benchmark import throughput  # TensorFlow takes seconds to import

    config = throughput.without_statistics(config)
    names = [config.data.name, *flags.FLAGS.also]
    found = throughput.measure(
        config,
        names,
        'flax' in flags.FLAGS.peer,
        flags.FLAGS.repeats,
        flags.FLAGS.seconds,
        _progress,
    )
    _progress('')
    flax_rates = found['flax']['rates'] if 'flax' in found else []
    print(f'data: {config.data.train_ops}, batch {config.batch_size}')
    print(f"{'images/s':>8}  {'spread':>15}  first batch  of flax's")
    for name, row in found.items():
        rates = row.pop('rates')
        row['images_per_second'] = statistics.median(rates)
        row['spread'] = [min(rates), max(rates)]
        ratio = ''
        if 'flax' in found:
            pairs = zip(rates, flax_rates, strict=True)
            row['ratio'] = statistics.median(a / b for a, b in pairs)
            ratio = f'{row["ratio"]:.2f} x'
        print(
            f'{row["images_per_second"]:8,.0f}  {_range(row["spread"]):>15}  '
            f'{row["first_batch_seconds"]:9.2f} s  {ratio:>9}  {name}'
        )
    return {'config': json.loads(config.to_json()), 'data': found}


def benchmark_save(config: ml_collections.ConfigDict) -> dict:
    """Time training with and without checkpoints; prints and returns."""
    from alexnet_jax.benchmark import save_cost  # these take seconds to import
    from alexnet_jax.data.pipeline import Data

    malloc.configure_malloc()
    compilation.enable_compilation_cache()
    found = save_cost.measure(config, Data(config), flags.FLAGS.repeats, _progress)
    _progress('')
    pairs = zip(found['with'], found['without'], strict=True)
    costs = sorted(a / b - 1 for a, b in pairs)
    cost = statistics.median(costs)
    print(
        f'save: {cost:+.1%} for a checkpoint every {save_cost.EVERY} steps, batch '
        f'{config.batch_size} (of {len(costs)} pairs: {costs[0]:+.1%} to {costs[-1]:+.1%}); '
        f'{statistics.median(found["without"]):.2f} s without'
    )
    return {'config': json.loads(config.to_json()), 'cost': cost, 'seconds': found}


def _range(spread: Sequence[float]) -> str:
    low, high = spread
    return f'{low:,.0f} - {high:,.0f}' if low >= 1000 else f'{low:,.1f} - {high:,.1f}'


def _write_json(path: Path, figures: dict) -> None:
    files.write(path, json.dumps(figures, indent=2) + '\n')


def _check_torch(config: ml_collections.ConfigDict) -> None:
    if importlib.util.find_spec('torch') is None:
        raise BadInput('--peer=torch needs PyTorch: pip install torch')
    import torch

    from alexnet_jax.benchmark import torch_baseline

    layers = variants.build(config.variant, config.edits, config.num_classes)
    try:
        with torch.device('meta'):  # takes no memory
            torch_baseline.build(layers, config.image_size)
    except ValueError as error:
        raise BadInput(f'--peer=torch: {error}; leave it out or edit the table') from error


def _define_flags() -> None:
    """In a function: other commands have a `--json` too, and a test imports them all."""
    flags.DEFINE_list('peer', [], 'What to compare with: torch, plain (step); flax (data).')
    flags.DEFINE_list('also', [], 'data: more sets to time, as in --config.data.name.')
    flags.DEFINE_string('json', None, 'File to write the figures to.')
    flags.DEFINE_integer('repeats', 5, 'Turns that each contender gets.', lower_bound=1)
    flags.DEFINE_float('seconds', 4.0, 'What a turn takes at least.', lower_bound=0)


def main() -> None:
    """Run the benchmark that the command line names."""
    _define_flags()
    cli.define_flags(require_workdir=False)
    _, *arguments = cli.parse_flags(sys.argv)
    config = flags.FLAGS.config
    if len(arguments) != 1 or arguments[0] not in PEERS or config is None:
        raise BadInput(
            'type: python -m alexnet_jax.benchmark step|data|save --config=configs/NAME.py'
        )
    os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
    kind = arguments[0]
    for peer in flags.FLAGS.peer:
        if peer not in PEERS[kind]:
            raise BadInput(
                f'{kind} has no --peer={peer}; allowed: {", ".join(PEERS[kind]) or "none"}'
            )
    validate(config, jax.device_count())
    if 'torch' in flags.FLAGS.peer:
        _check_torch(config)
    target = Path(flags.FLAGS.json) if flags.FLAGS.json else None
    if target and not target.parent.is_dir():
        raise BadInput(f'--json={target}: the folder {target.parent} does not exist')
    if kind == 'step':
        options = [arg for arg in sys.argv[1:] if arg.startswith(('--config', '-config'))]
        figures = benchmark_step(config, options)
    else:
        figures = {'data': benchmark_data, 'save': benchmark_save}[kind](config)
    if target:
        _write_json(target, figures)


if __name__ == '__main__':
    run_command(main)
