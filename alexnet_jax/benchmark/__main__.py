"""Time the training step and the input pipeline, or plan a run for other devices.

  python -m alexnet_jax.benchmark step --config=configs/NAME.py [--baselines=torch,reference]
  python -m alexnet_jax.benchmark data --config=configs/NAME.py [--baselines=flax] [--datasets=NAME]
  python -m alexnet_jax.benchmark plan --config=configs/NAME.py --topology=v5e:2x2
  python -m alexnet_jax.benchmark collectives --config=configs/NAME.py [--plot=FILE.png]

`step` times training and scoring on images in memory, so it needs no dataset; `data` times the
training batches of the input pipeline. Alternatives are interleaved within one run, and the figures
are medians over the repeats; they are meaningless on a machine that is busy with other work. The
other two only compile and measure nothing: `plan` estimates memory and time on TPUs, `collectives`
counts the bytes that up to 256 devices send each other.
"""

import contextlib
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags

from alexnet_jax import cli, files
from alexnet_jax.benchmark import collectives
from alexnet_jax.benchmark.plan import describe, plan
from alexnet_jax.benchmark.worker_process import WorkerProcess
from alexnet_jax.benchmark.workers import Task, Worker, matmul_size
from alexnet_jax.config import validate
from alexnet_jax.drawing.figures import to_png
from alexnet_jax.errors import BadInput, run_command
from alexnet_jax.model import variants
from alexnet_jax.model.shapes import forward_flops, training_flops

BASELINES = {'step': ('torch', 'reference'), 'data': ('flax',), 'plan': (), 'collectives': ()}


def benchmark_step(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Time training and scoring, print the tables, and return the figures."""
    layers = variants.build(config.variant, config.edits, config.num_classes)
    figures = {'config': json.loads(config.to_json()), 'device': jax.devices()[0].device_kind}
    for task, count_flops in ((Task.TRAIN, training_flops), (Task.FORWARD, forward_flops)):
        flops = count_flops(layers, config.image_size)
        timed, cold = _time(_workers(task), task, config)
        found = summarize(timed, config.batch_size, flops)
        figures[task] = found | {'compile_seconds': cold}
        _show(_step_table(task, config, figures[task], flops))
    return figures


def _workers(task: Task) -> list[Worker]:
    """The workers that are timed against each other."""
    found = [Worker.ALEXNET_JAX, Worker.MATMUL]
    if task is Task.TRAIN:
        found.append(Worker.LOOP)
    if 'reference' in flags.FLAGS.baselines:
        found.append(Worker.REFERENCE)
    if 'torch' in flags.FLAGS.baselines:
        found += [Worker.TORCH_EAGER, Worker.TORCH_TUNED]
        if jax.default_backend() == 'gpu':
            found.append(Worker.TORCH_COMPILED)
    return found


def _time(
    workers: Sequence[Worker], task: Task, config: ml_collections.ConfigDict
) -> tuple[dict[Worker, WorkerProcess], float]:
    """Return the workers with their repeats done, and how long compiling takes without a cache."""
    seconds, repeats = flags.FLAGS.seconds, flags.FLAGS.repeats
    timed: dict[Worker, WorkerProcess] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        stack.callback(cli.show_progress, '')
        folder = Path(name)
        (folder / 'config.json').write_text(config.to_json())
        cli.show_progress(f'{task}: compiling')
        with contextlib.closing(WorkerProcess(Worker.ALEXNET_JAX, task, folder, seconds)) as first:
            cold = first.compile_seconds
        for worker in workers:
            cli.show_progress(f'{task}: starting {worker.label}')
            timed[worker] = WorkerProcess(worker, task, folder, seconds)
            stack.callback(timed[worker].close)
        for repeat in range(repeats):
            for worker, process in timed.items():
                cli.show_progress(f'{task}: repeat {repeat + 1} of {repeats}, {worker.label}')
                process.repeat()
    return timed, cold


def summarize(timed: dict[Worker, WorkerProcess], batch_size: int, flops: int) -> dict[str, Any]:
    """Return rates and ratios; a ratio is taken within a repeat, so that drift cancels out.

    Args:
      timed: What was timed: ALEXNET_JAX, MATMUL, and any others.
      batch_size: Images per step.
      flops: Floating-point operations per image.
    """
    products = timed[Worker.MATMUL].seconds
    limits = [2 * matmul_size() ** 3 / seconds / flops for seconds in products]
    rates = {
        worker: [batch_size / seconds for seconds in process.seconds]
        for worker, process in timed.items()
        if worker is not Worker.MATMUL
    }
    ours = rates[Worker.ALEXNET_JAX]
    rows = {
        worker: {
            'images_per_second': statistics.median(found),
            'spread': [min(found), max(found)],
            'share_of_limit': _median_ratio(found, limits),
            'peak_gib': timed[worker].peak_gib,
            'speedup': _median_ratio(ours, found),
        }
        for worker, found in rates.items()
    }
    return {
        'workers': rows,
        'limit': statistics.median(limits),
        'cached_compile_seconds': timed[Worker.ALEXNET_JAX].compile_seconds,
    }


def _median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def _step_table(
    task: Task, config: ml_collections.ConfigDict, found: dict[str, Any], flops: int
) -> str:
    network = ', '.join([config.variant, *config.edits])
    rate = found['limit'] * flops / 1e9
    lines = [
        f'{task}: {network}, batch {config.batch_size}, {config.dtype}',
        f'{"":18} images/s  {"spread":>15}  of the limit  memory GiB  speedup of alexnet_jax',
    ]
    for worker, row in found['workers'].items():
        lines.append(
            f'{worker.label:18} {row["images_per_second"]:8,.1f}  {_range(row["spread"]):>15}  '
            f'{row["share_of_limit"]:12.0%}  {row["peak_gib"]:10.2f}  {row["speedup"]:20.2f} x'
        )
    lines += [
        f'{"limit":18} {found["limit"]:8,.1f}  {flops / 1e9:.2f} GFLOP per image at the '
        f'{rate:,.0f} GFLOP/s of a matrix product',
        f'compiled in {found["compile_seconds"]:.1f} s, from the cache in '
        f'{found["cached_compile_seconds"]:.1f} s',
    ]
    return '\n'.join(lines) + '\n'


def benchmark_data(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Time the input pipeline, print the table, and return the figures."""
    from alexnet_jax.benchmark import throughput  # TensorFlow takes seconds to import
    from alexnet_jax.data import rate

    config = rate.without_statistics(config)
    found = throughput.measure(
        config,
        [config.data.name, *flags.FLAGS.datasets],
        'flax' in flags.FLAGS.baselines,
        flags.FLAGS.repeats,
        flags.FLAGS.seconds,
        cli.show_progress,
    )
    cli.show_progress('')
    rows = {}
    for name, pipeline in found.items():
        rows[name] = {
            'images_per_second': statistics.median(pipeline.rates),
            'spread': [min(pipeline.rates), max(pipeline.rates)],
            'first_batch_seconds': pipeline.first_batch_seconds,
        }
        if 'flax' in found:
            rows[name]['ratio_to_flax'] = _median_ratio(pipeline.rates, found['flax'].rates)
    _show(_data_table(config, rows))
    return {'config': json.loads(config.to_json()), 'pipelines': rows}


def _data_table(config: ml_collections.ConfigDict, rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        f'data: {config.data.train_ops}, batch {config.batch_size}',
        f'images/s  {"spread":>15}  first batch  over flax  dataset',
    ]
    for name, row in rows.items():
        ratio = f'{row["ratio_to_flax"]:.2f} x' if 'ratio_to_flax' in row else ''
        lines.append(
            f'{row["images_per_second"]:8,.0f}  {_range(row["spread"]):>15}  '
            f'{row["first_batch_seconds"]:9.2f} s  {ratio:>9}  {name}'
        )
    return '\n'.join(lines)


def benchmark_plan(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Compile both steps for a topology, print the report, and return the figures."""
    figures = plan(config, flags.FLAGS.topology, cli.show_progress)
    cli.show_progress('')
    _show('\n'.join(describe(figures)))
    return figures


def benchmark_collectives(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Count the bytes that devices send, print the tables, and return the figures."""
    figures = collectives.measure(config, cli.show_progress)
    cli.show_progress('')
    _show(collectives.table(figures))
    if flags.FLAGS.plot:
        Path(flags.FLAGS.plot).write_bytes(to_png(collectives.plot(config)))
    return figures


def _range(spread: Sequence[float]) -> str:
    low, high = spread
    return f'{low:,.0f} - {high:,.0f}' if low >= 1000 else f'{low:,.1f} - {high:,.1f}'


def _show(table: str) -> None:
    if not flags.FLAGS.json:
        print(table, flush=True)


def _check_torch(config: ml_collections.ConfigDict) -> None:
    if importlib.util.find_spec('torch') is None:
        raise BadInput('--baselines=torch needs PyTorch: pip install torch')
    import torch

    from alexnet_jax.benchmark import torch_baseline

    layers = variants.build(config.variant, config.edits, config.num_classes)
    try:
        with torch.device('meta'):  # takes no memory
            torch_baseline.build(layers, config.image_size)
    except ValueError as error:
        raise BadInput(f'--baselines=torch: {error}; leave it out or edit the table') from error


def _define_flags() -> None:
    """Define the flags. A function, since a test imports all commands and others share names."""
    flags.DEFINE_list('baselines', [], 'Compare with torch, reference (step) or flax (data).')
    flags.DEFINE_list('datasets', [], 'data: more datasets to time, as for --config.data.name.')
    flags.DEFINE_string('topology', None, 'plan: TPU type and layout, such as v5e:2x2.')
    flags.DEFINE_string('plot', None, 'collectives: PNG file to plot the figures to.')
    flags.DEFINE_bool('json', False, 'Print the figures as JSON instead of tables.')
    flags.DEFINE_string('output', None, 'File to write the figures to, as JSON.')
    flags.DEFINE_integer('repeats', 5, 'How many times each is timed.', lower_bound=1)
    flags.DEFINE_float('seconds', 4.0, 'Minimum duration of a repeat.', lower_bound=0)


def main() -> None:
    """Run the benchmark that the command line names."""
    _define_flags()
    cli.define_flags(require_workdir=False)
    _, *arguments = cli.parse_flags(sys.argv)
    config = flags.FLAGS.config
    if len(arguments) != 1 or arguments[0] not in BASELINES or config is None:
        raise BadInput(
            'usage: python -m alexnet_jax.benchmark step|data|plan|collectives '
            '--config=configs/NAME.py'
        )
    kind = arguments[0]
    for baseline in flags.FLAGS.baselines:
        if baseline not in BASELINES[kind]:
            allowed = ', '.join(BASELINES[kind]) or 'none'
            raise BadInput(f'{kind} has no --baselines={baseline}; allowed: {allowed}')
    output = Path(flags.FLAGS.output) if flags.FLAGS.output else None
    for flag in ('output', 'plot'):
        path = Path(flags.FLAGS[flag].value or 'file')
        if path.is_dir() or not path.parent.is_dir():
            raise BadInput(f'--{flag}={path}; it must be a file in an existing folder')
    if kind == 'plan':
        figures = benchmark_plan(config)
    elif kind == 'collectives':
        figures = benchmark_collectives(config)
    else:
        os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # the workers need the GPU's memory
        validate(config, jax.device_count())
        if 'torch' in flags.FLAGS.baselines:
            _check_torch(config)
        figures = benchmark_step(config) if kind == 'step' else benchmark_data(config)
    text = json.dumps(figures, indent=2) + '\n'
    if flags.FLAGS.json:
        print(text, end='')
    if output:
        files.write(output, text)


if __name__ == '__main__':
    run_command(main)
