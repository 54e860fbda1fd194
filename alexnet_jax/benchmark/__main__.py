"""Time the training step and the input pipeline, or plan a run for other devices.

  python -m alexnet_jax.benchmark step --config=configs/NAME.py [--baselines=torch,reference]
  python -m alexnet_jax.benchmark data --config=configs/NAME.py [--baselines=flax,torchvision]
  python -m alexnet_jax.benchmark plan --config=configs/NAME.py --topology=v5e:2x2
  python -m alexnet_jax.benchmark collectives --config=configs/NAME.py [--plot=FILE.png]

`step` times training and scoring on images in memory, so it needs no dataset; `data` times the
training batches of the input pipeline. Alternatives are interleaved within one run, and the figures
are medians over the repeats; they are meaningless on a machine that is busy with other work. The
other two only compile and measure nothing: `plan` estimates memory and time on TPUs and GPUs,
`collectives` counts the bytes that up to 256 devices send each other.
"""

import importlib.util
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from alexnet_jax import cli, files
from alexnet_jax.benchmark import collectives, step
from alexnet_jax.benchmark.plan import describe, plan
from alexnet_jax.benchmark.probe import Devices, probe
from alexnet_jax.benchmark.step import median_ratio, range_text
from alexnet_jax.benchmark.workers import Task
from alexnet_jax.config import validate
from alexnet_jax.drawing.figures import to_png
from alexnet_jax.errors import BadInput, run_command
from alexnet_jax.model import variants
from alexnet_jax.parallel import hardware, processes

BASELINES = {
    'step': ('torch', 'reference'),
    'data': ('flax', 'torchvision', 'dali'),
    'plan': (),
    'collectives': (),
}
# The benchmarks that each of these flags applies to; the other flags apply to all.
HAVING = {
    'datasets': ('data',),
    'as_large': ('data',),
    'topology': ('plan',),
    'plot': ('collectives',),
    'repeats': ('step', 'data'),
    'seconds': ('step', 'data'),
}


def benchmark_step(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Time training and scoring, print the tables, and return the figures."""
    found = probe()  # this process must not hold the devices
    validate(config, found.count)
    if 'torch' in flags.FLAGS.baselines:
        _check_torch(config, found)
    repeats, seconds = flags.FLAGS.repeats, flags.FLAGS.seconds
    figures = {'config': json.loads(config.to_json()), 'device': found.kind, 'devices': found.count}
    for task in Task:
        workers = step.choose_workers(task, found.platform, flags.FLAGS.baselines)
        figures[task] = step.measure(
            task, workers, config, found, repeats, seconds, cli.show_progress
        )
        _show(step.table(task, config, found, figures[task]))
    if found.platform in step.ONE_PROCESS:
        _show(
            f'A {found.kind} serves one process at a time: each was timed after the other, so '
            'ratios include changes of the machine in between.'
        )
    return figures


def benchmark_data(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Time the input pipeline, print the table, and return the figures."""
    from alexnet_jax.benchmark import throughput  # TensorFlow takes seconds to import
    from alexnet_jax.data import rate

    validate(config, processes.count_devices())
    config = rate.without_statistics(config)
    found = throughput.measure(
        config,
        [config.data.name, *flags.FLAGS.datasets],
        flags.FLAGS.baselines,
        flags.FLAGS.as_large,
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
            'serial_seconds_per_image': pipeline.serial_seconds,
        }
        if pipeline.baseline:
            baseline = found[pipeline.baseline].rates
            rows[name]['ratio_to_flax'] = median_ratio(pipeline.rates, baseline)
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
            f'{row["images_per_second"]:8,.0f}  {range_text(row["spread"]):>15}  '
            f'{row["first_batch_seconds"]:9.2f} s  {ratio:>9}  {name}'
        )
    for name, row in rows.items():
        if seconds := row['serial_seconds_per_image']:
            lines.append(
                f'{name}: {seconds * 1e6:.1f} us per image on one core at a time, so that no '
                f'number of cores makes more than {1 / seconds:,.0f} images/s'
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


def _show(table: str) -> None:
    if not flags.FLAGS.json:
        print(table, flush=True)


def _check_torch(config: ml_collections.ConfigDict, found: Devices) -> None:
    if found.platform != 'cpu' and found.count > 1:
        raise BadInput(
            f'--baselines=torch runs on one device, and JAX finds {found.count} x {found.kind}; '
            'make only one visible (CUDA_VISIBLE_DEVICES=0), or leave torch out'
        )
    if importlib.util.find_spec('torch') is None:
        raise BadInput('--baselines=torch needs PyTorch: pip install torch')
    import torch

    from alexnet_jax.benchmark import torch_baseline

    theirs = 'gpu' if torch.cuda.is_available() else 'cpu'
    if theirs != found.platform:
        remedy = 'install matching builds, hide the GPU (CUDA_VISIBLE_DEVICES=), or leave torch out'
        raise BadInput(
            f'--baselines=torch: PyTorch would run on the {theirs.upper()}, and JAX on the '
            f'{found.platform.upper()}; {"leave torch out" if found.platform == "tpu" else remedy}'
        )

    layers = variants.build(config.variant, config.edits, config.num_classes)
    try:
        with torch.device('meta'):  # takes no memory
            torch_baseline.build(layers, config.image_size)
    except ValueError as error:
        raise BadInput(f'--baselines=torch: {error}; leave it out or edit the table') from error


def _define_flags() -> None:
    """Define the flags. A function, since a test imports all commands and others share names."""
    flags.DEFINE_list(
        'baselines',
        [],
        'What to compare with: torch, reference (step); flax, torchvision, dali (data).',
    )
    flags.DEFINE_list('datasets', [], 'data: more datasets to time, as for --config.data.name.')
    flags.DEFINE_bool('as_large', False, 'data: keep no decoded images, as for a large dataset.')
    flags.DEFINE_string('topology', None, 'plan: chips, such as v5e:2x2 or h100:4.')
    flags.DEFINE_string('plot', None, 'collectives: PNG file to plot the figures to.')
    flags.DEFINE_bool('json', False, 'Print the figures as JSON instead of tables.')
    flags.DEFINE_string('output', None, 'File to write the figures to, as JSON.')
    flags.DEFINE_integer('repeats', 5, 'How many times each is timed.', lower_bound=1)
    flags.DEFINE_float('seconds', 4.0, 'Minimum duration of a repeat.')


def main() -> None:
    """Run the benchmark that the command line names."""
    _define_flags()
    cli.define_flags(workdir=None)
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
    for flag, kinds in HAVING.items():
        if flags.FLAGS[flag].present and kind not in kinds:
            raise BadInput(f'{kind} has no --{flag}; it is for {" and ".join(kinds)}')
    if not 0 < flags.FLAGS.seconds < math.inf:
        raise BadInput(f'--seconds={flags.FLAGS.seconds}; it must be above 0 and finite')
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
        hardware.share_gpu()
        figures = benchmark_step(config) if kind == 'step' else benchmark_data(config)
    text = json.dumps(figures, indent=2) + '\n'
    if flags.FLAGS.json:
        print(text, end='')
    if output:
        files.write(output, text)


if __name__ == '__main__':
    run_command(main)
