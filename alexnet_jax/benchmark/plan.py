"""Compile a recipe's steps for chips that are not present, and estimate their cost.

Nothing is run and nothing is measured. Memory, operations and bytes are those of the program that
the chips would run. Its time is estimated by a model, a lower bound: the sum over operations of the
larger of bytes at full memory bandwidth and, on a TPU, instructions at one bundle per cycle, on a
GPU, operations of products at their peak rate. For TPUs there are the compiler's own estimates as
well, which are too high for operations that only move data.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

from alexnet_jax.benchmark.chips import Chip, Gpu, find_chip
from alexnet_jax.benchmark.compilers import find_devices
from alexnet_jax.benchmark.gpu_program import read_gpu_program
from alexnet_jax.benchmark.tpu_program import OTHER, Op, read_code, read_program
from alexnet_jax.config import validate
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.evaluation.steps import lower_eval_step
from alexnet_jax.model import variants
from alexnet_jax.model.shapes import layer_names, product_flops
from alexnet_jax.parallel import pmap
from alexnet_jax.training.memory import blank_part, lower_step, read_memory, state_shapes

TASKS = ('train', 'forward')
FRACTION = 'XLA_PYTHON_CLIENT_MEM_FRACTION'  # the share of a GPU's memory that JAX takes


def plan(
    config: ml_collections.ConfigDict, topology: str | None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Compile the training and the evaluation step for a topology, and return the figures.

    Call it before JAX initializes its devices. On one CPU core, it takes one to five minutes for
    TPUs, less for GPUs.

    Args:
      config: A recipe.
      topology: Chips and their layout, such as 'v5e:2x2' or 'h100:4'.
      progress: Called with a line before each step is compiled.

    Raises:
      BadInput: There is no such topology, the recipe does not suit it, or the compiler is missing.
      RunError: A step does not compile, for instance because it does not fit in memory.
    """
    if not topology:
        raise BadInput('plan needs --topology=CHIP:LAYOUT, such as --topology=v5e:2x2 or h100:4')
    chip = find_chip(topology)
    with tempfile.TemporaryDirectory() as folder:
        devices, compiler = find_devices(topology, chip, Path(folder))
        validate(config, len(devices))
        figures = {
            'config': json.loads(config.to_json()),
            'topology': topology,
            'chip': chip.name,
            'chips': len(devices),
            'compiled_by': compiler,
        }
        for task in TASKS:
            progress(f'{task}: compiling for {topology}')
            figures[task] = _compile(config, task, chip, devices, Path(folder))
    return figures


def _compile(
    config: ml_collections.ConfigDict,
    task: str,
    chip: Chip,
    devices: Sequence[Any],
    folder: Path,
) -> dict[str, Any]:
    layers = variants.build(config.variant, config.edits, config.num_classes)
    examples = config.batch_size // config.accum_steps // len(devices)
    with pmap.compiling_for(devices):
        lowered = _lower(config, task, len(devices))
        start = time.perf_counter()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            raise RunError(
                f'{task} does not compile: {str(error).splitlines()[0]}; '
                f'if it does not fit, lower --config.batch_size or raise --config.accum_steps'
            ) from error
        seconds = time.perf_counter() - start
    memory = read_memory(compiled)
    fraction = float(os.environ.get(FRACTION, 0.75)) if isinstance(chip, Gpu) else 1
    usable = chip.memory * fraction
    if memory.total > usable:  # for a GPU, XLA compiles it all the same
        share = f', of which JAX takes {fraction:.0%} ({FRACTION})' if fraction < 1 else ''
        raise RunError(
            f'{task} needs {memory.total / 1e9:.1f} GB of the {chip.memory / 1e9:.1f} GB of a '
            f'{chip.name}{share}; lower --config.batch_size or raise --config.accum_steps'
        )
    flops = {
        key: count * examples
        for key, count in product_flops(layers, config.image_size, task == 'train').items()
    }
    hlo, names = compiled.as_text() or '', layer_names(layers)
    if isinstance(chip, Gpu):
        ops = read_gpu_program(hlo, names, flops, chip, _product_rate(config, chip))
    else:
        ops = read_program(hlo, read_code(folder), names)
        for path in folder.iterdir():  # the next step has operations of the same names
            path.unlink()
    cost = compiled.cost_analysis() or {}  # unknown for a GPU
    return {
        'compile_seconds': seconds,
        'flops': cost.get('flops', sum(flops.values())),
        'memory': memory._asdict(),
    } | summarize(ops, chip, examples, sum(flops.values()))


def _product_rate(config: ml_collections.ConfigDict, gpu: Gpu) -> float:
    """Operations per second of products in the precision of a config."""
    if config.dtype == 'bfloat16':
        return gpu.peak_flops
    return gpu.float32_flops if config.precision == 'highest' else gpu.tf32_flops


def _lower(config: ml_collections.ConfigDict, task: str, devices: int) -> jax.stages.Lowered:
    if task == 'train':
        return lower_step(config, devices)
    part = blank_part(config, devices)
    batch = {key: part[key] for key in ('image', 'label', 'mask')}
    return lower_eval_step(variants.make_model(config), state_shapes(config).variables, batch)


def summarize(ops: Sequence[Op], chip: Chip, examples: int, flops: int) -> dict[str, Any]:
    """Return the estimates of a step, both for a TPU, and the shares of its layers.

    Args:
      ops: The operations of the step on one chip.
      chip: The chip.
      examples: Images that a chip computes in the step.
      flops: Floating-point operations of a chip in the step, in products with weights.
    """
    estimates = {'model': Op.modeled_seconds}
    if not isinstance(chip, Gpu):
        estimates['compiler'] = Op.estimated_seconds
    result: dict[str, Any] = {
        'hbm_bytes': sum(op.hbm_bytes for op in ops),
        'sent_bytes': sum(op.sent_bytes for op in ops),
    }
    layers: dict[str, dict[str, list[float]]] = {}
    for name, estimate in estimates.items():
        seconds = [estimate(op, chip.bandwidth, chip.clock) for op in ops]
        total = sum(seconds)
        result[name] = {
            'seconds': total,
            'images_per_second_per_chip': examples / total,
            'utilization': flops / total / chip.peak_flops,
        }
        for op, taken in zip(ops, seconds, strict=True):
            row = layers.setdefault(op.layer, {key: [0.0, 0.0] for key in estimates})
            row[name][op.backward] += taken
    return result | {'layers': layers}


def describe(figures: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the report on the figures of `plan`."""
    config, tasks = figures['config'], [figures[task] for task in TASKS]
    chip = find_chip(figures['topology'])
    part = config['batch_size'] // config['accum_steps']
    network = ', '.join([config['variant'], *config['edits']])
    yield (
        f'{network}, {config["dtype"]}: {part:,} images on {figures["chips"]} x {chip.name} '
        f'({figures["topology"]}), {part // figures["chips"]:,} per chip'
    )
    if config['accum_steps'] > 1:
        yield f'with accum_steps, a step takes {config["accum_steps"]} times as long'
    yield f'estimates by {figures["compiled_by"]} without a chip; nothing was measured'
    yield ''
    yield _row('', *TASKS)
    yield _row('compiled in, s', *(f'{task["compile_seconds"]:.0f}' for task in tasks))
    for key, label in (
        ('arguments', 'GB per chip: state, batch'),
        ('temporaries', '  activations, gradients'),
        ('total', f'  of {chip.memory / 1e9:.1f}'),
    ):
        yield _row(label, *(f'{task["memory"][key] / 1e9:.2f}' for task in tasks))
    yield _row('TFLOP', *(f'{task["flops"] / 1e12:.2f}' for task in tasks))
    yield _row('memory traffic, GB', *(f'{task["hbm_bytes"] / 1e9:.1f}' for task in tasks))
    yield _row('sent to other chips, MB', *(f'{task["sent_bytes"] / 1e6:.1f}' for task in tasks))
    code = 'products' if isinstance(chip, Gpu) else 'code'
    for name, label in (('model', f"the model's bytes and {code}"), ('compiler', 'XLA')):
        if name not in tasks[0]:
            continue
        yield f'step, estimated by {label}'
        found = [task[name] for task in tasks]
        yield _row('  ms', *(f'{f["seconds"] * 1e3:.2f}' for f in found))
        rates = [f['images_per_second_per_chip'] for f in found]
        yield _row('  images/s per chip', *(f'{rate:,.0f}' for rate in rates))
        yield _row('  images/s', *(f'{rate * figures["chips"]:,.0f}' for rate in rates))
        yield _row('  utilization', *(f'{f["utilization"]:.0%}' for f in found))
    yield ''
    yield from _layer_table(figures)


def _row(label: str, *values: str) -> str:
    return f'{label:<32}' + ''.join(f'{value:>12}' for value in values)


def _layer_table(figures: dict[str, Any]) -> Iterator[str]:
    """Milliseconds and shares of the training step's layers, by the model and, if known, by XLA."""
    found = figures['train']
    layers = found['layers']
    estimates = {
        key: label for key, label in (('model', 'model'), ('compiler', 'XLA')) if key in found
    }
    first, *others = estimates.values()
    heads = [head for way in ('forward', 'backward') for head in (f'{way}: {first}', *others)]
    yield f'{"train, ms":<12} ' + ' '.join(f'{head:>15}' for head in heads)
    config = ml_collections.ConfigDict(figures['config'])
    names = layer_names(variants.build(config.variant, tuple(config.edits), config.num_classes))
    for name in [*names, OTHER]:
        if name not in layers:
            continue
        cells = [
            f'{layers[name][key][way] * 1e3:.2f} '
            f'({layers[name][key][way] / found[key]["seconds"]:.1%})'
            for way in (False, True)
            for key in estimates
        ]
        yield f'{name:<12} ' + ' '.join(f'{cell:>15}' for cell in cells)
