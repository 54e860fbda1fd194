"""Time the training step and the scoring step against alternatives, each in its own process."""

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from alexnet_jax.benchmark.probe import Devices
from alexnet_jax.benchmark.worker_process import WorkerProcess
from alexnet_jax.benchmark.workers import Task, Worker, matmul_size
from alexnet_jax.model import variants
from alexnet_jax.model.shapes import product_flops

ONE_PROCESS = ('tpu',)  # platforms whose devices serve one process at a time


def choose_workers(task: Task, platform: str, baselines: Collection[str]) -> list[Worker]:
    """Return the workers that are timed against each other."""
    found = [Worker.ALEXNET_JAX, Worker.MATMUL]
    if task is Task.TRAIN:
        found.append(Worker.LOOP)
    if 'reference' in baselines:
        found.append(Worker.REFERENCE)
    if 'torch' in baselines:
        found += [Worker.TORCH_EAGER, Worker.TORCH_TUNED]
        if platform == 'gpu':
            found.append(Worker.TORCH_COMPILED)
    return found


def measure(
    task: Task,
    workers: Sequence[Worker],
    config: ml_collections.ConfigDict,
    devices: Devices,
    repeats: int,
    seconds: float,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Time workers, and return the figures.

    They all live at once and take turns; where only one process can have the devices, each does all
    its repeats before the next one starts.

    Args:
      task: Whether they train or score.
      workers: ALEXNET_JAX, MATMUL, and any others.
      config: A recipe.
      devices: The devices, over all of which a batch is divided.
      repeats: How many times each is timed.
      seconds: The minimum duration of a repeat.
      progress: Called with a line for each thing that is done, and '' in the end.

    Raises:
      RunError: A worker ended.
    """
    timed: dict[Worker, WorkerProcess] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as last:
        last.callback(progress, '')
        folder = Path(name)
        (folder / 'config.json').write_text(config.to_json())
        progress(f'{task}: compiling')
        with contextlib.closing(WorkerProcess(Worker.ALEXNET_JAX, task, folder, seconds)) as first:
            cold = first.compile_seconds
        at_once = [[worker] for worker in workers] if devices.platform in ONE_PROCESS else [workers]
        for group in at_once:
            with contextlib.ExitStack() as stack:
                for worker in group:
                    progress(f'{task}: starting {worker.label}')
                    timed[worker] = WorkerProcess(worker, task, folder, seconds)
                    stack.callback(timed[worker].close)
                for repeat in range(repeats):
                    for worker in group:
                        progress(f'{task}: repeat {repeat + 1} of {repeats}, {worker.label}')
                        timed[worker].repeat()
    flops, matrix = _flops(task, config), matmul_size(devices.platform)
    found = summarize(timed, config.batch_size, flops, matrix, devices.count)
    return found | {'compile_seconds': cold}


def _flops(task: Task, config: ml_collections.ConfigDict) -> int:
    layers = variants.build(config.variant, config.edits, config.num_classes)
    return sum(product_flops(layers, config.image_size, task is Task.TRAIN).values())


def summarize(
    timed: dict[Worker, WorkerProcess], batch_size: int, flops: int, matrix: int, devices: int
) -> dict[str, Any]:
    """Return rates and ratios; a ratio is taken within a repeat, so that drift cancels out.

    Args:
      timed: What was timed: ALEXNET_JAX, MATMUL, and any others.
      batch_size: Images per step.
      flops: Floating-point operations per image.
      matrix: The number of rows of the matrices that were multiplied.
      devices: The number of devices, each of which multiplied them.
    """
    products = timed[Worker.MATMUL].seconds
    limits = [devices * 2 * matrix**3 / seconds / flops for seconds in products]
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
            'share_of_limit': median_ratio(found, limits),
            'peak_gib': timed[worker].peak_gib,
            'speedup': median_ratio(ours, found),
        }
        for worker, found in rates.items()
    }
    return {
        'workers': rows,
        'limit': statistics.median(limits),
        'cached_compile_seconds': timed[Worker.ALEXNET_JAX].compile_seconds,
    }


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the ratios of pairs."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def table(
    task: Task, config: ml_collections.ConfigDict, devices: Devices, found: dict[str, Any]
) -> str:
    """Return the table of the figures of `measure`."""
    flops = _flops(task, config)
    network = ', '.join([config.variant, *config.edits])
    rate = found['limit'] * flops / 1e9
    lines = [
        f'{task}: {network}, batch {config.batch_size}, {config.dtype}, '
        f'{devices.count} x {devices.kind}',
        f'{"":18} images/s  {"spread":>15}  of the limit  memory GiB  speedup of alexnet_jax',
    ]
    for worker, row in found['workers'].items():
        lines.append(
            f'{worker.label:18} {row["images_per_second"]:8,.1f}  {range_text(row["spread"]):>15}  '
            f'{row["share_of_limit"]:12.0%}  {row["peak_gib"]:10.2f}  {row["speedup"]:20.2f} x'
        )
    lines += [
        f'{"limit":18} {found["limit"]:8,.1f}  {flops / 1e9:.2f} GFLOP per image at the '
        f'{rate:,.0f} GFLOP/s of a matrix product',
        f'compiled in {found["compile_seconds"]:.1f} s, from the cache in '
        f'{found["cached_compile_seconds"]:.1f} s',
    ]
    return '\n'.join(lines) + '\n'


def range_text(spread: Sequence[float]) -> str:
    """Return the text of the slowest and the fastest rate."""
    low, high = spread
    return f'{low:,.0f} - {high:,.0f}' if low >= 1000 else f'{low:,.1f} - {high:,.1f}'
