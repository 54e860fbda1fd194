"""Compile a recipe's steps for TPUs that are not present, and estimate their cost.

Nothing is run and nothing is measured. Memory, operations and bytes are those of the program that a
TPU would run. Its time is estimated twice: by a model, the sum over operations of the larger of
bytes at full memory bandwidth and instructions at one bundle per cycle, which is a lower bound;
and by the compiler's own estimates, which are too high for operations that only move data.
"""

import importlib.metadata
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from jax.experimental import topologies

from alexnet_jax.benchmark.chips import Chip, find_chip
from alexnet_jax.benchmark.tpu_program import OTHER, Op, read_code, read_program
from alexnet_jax.config import validate
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.evaluation.steps import lower_eval_step
from alexnet_jax.model import variants
from alexnet_jax.model.shapes import forward_flops, layer_names, training_flops
from alexnet_jax.parallel import pmap
from alexnet_jax.training.memory import blank_part, lower_step, read_memory, state_shapes

LIBTPU = 'libtpu==0.0.42.1'  # the version whose texts `tpu_program` was written for
TASKS = ('train', 'forward')


def plan(
    config: ml_collections.ConfigDict, topology: str | None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Compile the training and the evaluation step for a topology, and return the figures.

    Call it before JAX initializes its devices. Compiling takes one to five minutes on one CPU core.

    Args:
      config: A recipe.
      topology: Chips and their layout, such as 'v5e:2x2'.
      progress: Called with a line before each step is compiled.

    Raises:
      BadInput: There is no such topology, the recipe does not suit it, or libtpu is missing.
      RunError: A step does not compile, for instance because it does not fit in memory.
    """
    if not topology:
        raise BadInput('plan needs --topology=KIND:LAYOUT, such as --topology=v5e:2x2')
    chip = find_chip(topology)
    if importlib.util.find_spec('libtpu') is None:
        raise BadInput(f'plan needs the TPU compiler: pip install {LIBTPU}')
    with tempfile.TemporaryDirectory() as folder:
        _configure_libtpu(folder)
        devices = _find_devices(topology, chip)
        validate(config, len(devices))
        figures = {
            'config': json.loads(config.to_json()),
            'topology': topology,
            'chip': chip.name,
            'chips': len(devices),
            'libtpu': importlib.metadata.version('libtpu'),
        }
        for task in TASKS:
            progress(f'{task}: compiling for {topology}')
            figures[task] = _compile(config, task, chip, devices, Path(folder))
    return figures


def _configure_libtpu(folder: str) -> None:
    """Set up libtpu, before it is loaded, only to compile: no chip is touched or waited for."""
    os.environ |= {
        'TPU_SKIP_MDS_QUERY': '1',  # do not ask the cloud which machine this is
        'TPU_WORKER_HOSTNAMES': 'localhost',
        'TPU_ACCELERATOR_TYPE': 'v5litepod-4',  # of this machine, which does not matter
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # beside a run
        'LIBTPU_INIT_ARGS': f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true '
        '--xla_jf_dump_llo_pass_label_regex=^final_bundles$',
    }
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_enable_compilation_cache', False)  # a cached program has no code to read


def _find_devices(topology: str, chip: Chip) -> Sequence[Any]:
    try:
        found = topologies.get_topology_desc(
            platform='tpu', topology_name=topology, **dict(chip.options)
        )
    except jax.errors.JaxRuntimeError as error:
        raise BadInput(f'--topology={topology}: {error}') from error
    if len({device.process_index for device in found.devices}) > 1:
        raise BadInput(
            f'--topology={topology} spans several hosts; a layout of one host is {chip.example}'
        )
    return found.devices


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
    code = read_code(folder)
    for path in folder.iterdir():  # the next step has operations of the same names
        path.unlink()
    ops = read_program(compiled.as_text() or '', code, layer_names(layers))
    count_flops = training_flops if task == 'train' else forward_flops
    cost = compiled.cost_analysis() or {}
    return {
        'compile_seconds': seconds,
        'flops': cost.get('flops'),
        'memory': read_memory(compiled)._asdict(),
    } | summarize(ops, chip, examples, count_flops(layers, config.image_size))


def _lower(config: ml_collections.ConfigDict, task: str, devices: int) -> jax.stages.Lowered:
    if task == 'train':
        return lower_step(config, devices)
    part = blank_part(config, devices)
    batch = {key: part[key] for key in ('image', 'label', 'mask')}
    return lower_eval_step(variants.make_model(config), state_shapes(config).variables, batch)


def summarize(ops: Sequence[Op], chip: Chip, examples: int, flops: int) -> dict[str, Any]:
    """Return both estimates of a step, and the shares of its layers.

    Args:
      ops: The operations of the step on one chip.
      chip: The chip.
      examples: Images that a chip computes in the step.
      flops: Floating-point operations per image, in products with weights.
    """
    estimates = {'model': Op.modeled_seconds, 'compiler': Op.estimated_seconds}
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
            'utilization': examples * flops / total / chip.peak_flops,
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
    yield f'estimates by libtpu {figures["libtpu"]} without a chip; nothing was measured'
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
    for name, label in (('model', "by the model's bytes and code"), ('compiler', 'by XLA')):
        yield f'step, estimated {label}'
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
    """Milliseconds and shares of the training step's layers, by model / by XLA."""
    found = figures['train']
    layers, totals = found['layers'], [found[key]['seconds'] for key in ('model', 'compiler')]
    heads = ('forward: model', 'XLA', 'backward: model', 'XLA')
    yield f'{"train, ms":<12} ' + ' '.join(f'{head:>15}' for head in heads)
    config = ml_collections.ConfigDict(figures['config'])
    names = layer_names(variants.build(config.variant, tuple(config.edits), config.num_classes))
    for name in [*names, OTHER]:
        if name not in layers:
            continue
        cells = [
            f'{layers[name][key][way] * 1e3:.2f} ({layers[name][key][way] / total:.1%})'
            for way in (False, True)
            for key, total in zip(('model', 'compiler'), totals, strict=True)
        ]
        yield f'{name:<12} ' + ' '.join(f'{cell:>15}' for cell in cells)
