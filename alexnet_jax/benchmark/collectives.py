"""Count the bytes that devices send each other in a training step, in data and hybrid parallelism.

The step is compiled for simulated devices, and the operands of its collective operations are added
up; nothing is run. Ring algorithms are assumed: each device sends (K - 1) / K of the operands for K
devices, and twice that for an all-reduce, which is a reduce-scatter plus an all-gather.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.benchmark.tpu_program import COLLECTIVES, array_bytes
from alexnet_jax.config import validate
from alexnet_jax.config_checks import PARALLELISMS
from alexnet_jax.drawing import figures
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.model import variants
from alexnet_jax.model.layers import Dense
from alexnet_jax.model.shapes import LayerInfo, layer_infos
from alexnet_jax.parallel import pmap
from alexnet_jax.training.memory import lower_step, read_memory

DEVICES = (4, 8, 16, 64, 256)
BATCHES = (128, 256, 512, 1024, 2048, 4096, 8192)

# Bytes per second that a device can send.
LINKS = {
    '25 GbE': 25e9 / 8,
    'PCIe 4.0 x16': 16 * 16e9 * 128 / 130 / 8,  # PCI-SIG: 16 GT/s a lane, 128b/130b
    'TPU v5e ICI': 200e9,  # Google Cloud's page on v5e: 400 GB/s in both directions together
    'NVLink 4 (H100)': 450e9,  # NVIDIA's data sheet: 900 GB/s, likewise
}


# Counting

_COLLECTIVE = re.compile(rf'= (.*?) ({"|".join(COLLECTIVES)})(?:-start)?\(')


def count_sent_bytes(hlo: str, devices: int) -> float:
    """Return the bytes that each device sends in a program.

    Args:
      hlo: The program's text, in which the shape of a result precedes the operation's name.
      devices: The number of devices, all of which take part in each operation.
    """
    total = 0.0
    for result, operation in _COLLECTIVE.findall(hlo):
        times = {'all-reduce': 2, 'reduce-scatter': devices}.get(operation, 1)
        total += times * array_bytes(result) * (devices - 1) / devices
    return total


def expected_bytes(config: ml_collections.ConfigDict, devices: int) -> float:
    """Return the bytes that each device has to send in a step, except for a few numbers.

    Those are the counts of examples and the sums of batch norms.
    """
    layers = variants.build(config.variant, config.edits, config.num_classes)
    infos = list(layer_infos(layers, config.image_size))
    summed = sum(info.parameters for info in infos)  # those whose gradients are added up
    activations = 0.0
    if config.parallelism == 'hybrid':
        for info in infos:
            if isinstance(info.layer, Dense):
                summed -= info.parameters - info.output[0]  # the kernel
                is_head = info.layer is layers[-1]
                activations += _activation_bytes(info, config.dtype, is_head, devices)
    gradients = 2 * np.dtype(config.gradient_dtype).itemsize * summed * config.accum_steps
    return (gradients + activations * config.batch_size) * (devices - 1) / devices


def _activation_bytes(info: LayerInfo, dtype: str, is_head: bool, devices: int) -> float:
    """Return the bytes per example for a fully connected layer with a sliced kernel."""
    width = np.dtype(dtype).itemsize
    exchanged = 2 * width * math.prod(info.input) / devices  # inputs, and their gradients
    backward = 4 if is_head else width
    return exchanged + (4 + backward) * info.output[0]  # sums are float32


# Measuring


class Step(NamedTuple):
    """A compiled training step on one device: what it sends, and its memory, in bytes."""

    sent: float
    arguments: int
    temporaries: int


def compile_step(config: ml_collections.ConfigDict, devices: int) -> Step:
    """Compile a config's training step for some of this process's devices.

    Raises:
      RunError: It does not send the number of bytes that it should.
    """
    with pmap.compiling_for(jax.devices()[:devices]):
        compiled = lower_step(config, devices).compile()
    sent = count_sent_bytes(compiled.as_text() or '', devices)
    expected = expected_bytes(config, devices)
    if not np.isclose(sent, expected, rtol=1e-3):
        raise RunError(
            f'{config.parallelism} on {devices} devices: the compiled step sends {sent:,.0f} bytes '
            f'per device instead of {expected:,.0f}; the formula of `collectives` is wrong'
        )
    memory = read_memory(compiled)
    return Step(sent, memory.arguments, memory.temporaries)


def measure(config: ml_collections.ConfigDict, show: Callable[[str], None]) -> dict[str, Any]:
    """Compile the step both ways for each number of devices, and return the figures.

    Call it before JAX initializes its devices. The config's batch size is compiled; the figures for
    the others come from a formula, which must agree with it.

    Args:
      config: A recipe in float32: on CPUs, bfloat16 is sent as float32.
      show: Called with a progress message.

    Raises:
      BadInput: The recipe has bfloat16 values, or does not suit some number of devices.
      RunError: A step does not send the number of bytes that it should.
    """
    steps = [
        (devices, _changed(config, parallelism=parallelism))
        for devices in DEVICES
        for parallelism in PARALLELISMS
    ]
    for devices, changed in steps:
        validate(changed, devices)
    for key in ('dtype', 'gradient_dtype'):
        if config[key] == 'bfloat16':
            raise BadInput(
                f'{key}=bfloat16: collectives compiles for CPUs, which send bfloat16 as float32; '
                f'set --config.{key}=float32'
            )
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', max(DEVICES))
    rows = []
    for devices, changed in steps:
        show(f'compiling {changed.parallelism} parallelism for {devices} devices')
        rows.append(
            {'devices': devices, 'parallelism': changed.parallelism}
            | compile_step(changed, devices)._asdict()
        )
    return {
        'config': json.loads(config.to_json()),
        'compiled': rows,
        'sent': {d: {b: sent_both_ways(config, d, b) for b in BATCHES} for d in DEVICES},
        'break_even': {d: break_even(config, d) for d in DEVICES},
        'links': LINKS,
    }


def _changed(config: ml_collections.ConfigDict, **values: Any) -> ml_collections.ConfigDict:
    changed = ml_collections.ConfigDict(config)
    changed.update(values)
    return changed


def sent_both_ways(
    config: ml_collections.ConfigDict, devices: int, batch_size: int
) -> dict[str, float]:
    """Return {'data': bytes, 'hybrid': bytes} that a device sends in a step of `batch_size`."""
    return {
        way: expected_bytes(_changed(config, parallelism=way, batch_size=batch_size), devices)
        for way in PARALLELISMS
    }


def break_even(config: ml_collections.ConfigDict, devices: int) -> float:
    """Return the batch size at which both ways send the same; below it, hybrid sends less."""
    data, hybrid = sent_both_ways(config, devices, 0).values()
    slope = sent_both_ways(config, devices, 1)['hybrid'] - hybrid
    return (data - hybrid) / slope


# Showing


def table(found: dict[str, Any]) -> str:
    """Return the figures as text."""
    lines = [
        'MB sent per device and step',
        f'{"devices":>8}  {"data":>8}  hybrid, by batch size',
        f'{"":18}' + ''.join(f'{batch:>8,}' for batch in BATCHES) + '  break-even',
    ]
    for devices, row in found['sent'].items():
        cells = ''.join(f'{both["hybrid"] / 1e6:8,.1f}' for both in row.values())
        data = row[BATCHES[0]]['data'] / 1e6
        lines.append(f'{devices:>8}  {data:8,.1f}{cells}  {found["break_even"][devices]:10,.0f}')
    lines += ['', f'ms to send this on 8 devices{"":10}data  hybrid, by batch size']
    for link, speed in LINKS.items():
        row = found['sent'][8]
        sent = [row[BATCHES[0]]['data'], *(both['hybrid'] for both in row.values())]
        lines.append(f'{link:>32}' + ''.join(f'{size / speed * 1e3:8,.1f}' for size in sent))
    lines += ['', 'compiled: MB sent, of state and batch, of temporaries']
    for row in found['compiled']:
        sizes = (f'{row[key] / 1e6:10,.1f}' for key in Step._fields)
        lines.append(f'{row["devices"]:>8}  {row["parallelism"]:8}{"".join(sizes)}')
    return '\n'.join(lines)


@figures.styled
def plot(config: ml_collections.ConfigDict) -> Figure:
    """Plot what a device sends against the batch size, in both modes."""
    figure = Figure(figsize=(figures.WIDTH * 0.8, 4.2))
    axes = figure.add_subplot()
    batches = np.geomspace(BATCHES[0], BATCHES[-1], 100)
    for count, line in zip((8, 256), ('-', '--'), strict=True):
        for way, color in zip(PARALLELISMS, figures.PALETTE, strict=False):
            sent = [sent_both_ways(config, count, round(b))[way] / 1e6 for b in batches]
            axes.plot(batches, sent, line, color=color, label=f'{way}, {count} devices')
    axes.set(xscale='log', yscale='log', xlabel='batch size', ylabel='MB sent per device and step')
    axes.set_xticks(BATCHES, [f'{batch:,}' for batch in BATCHES])
    axes.set_yticks(levels := (25, 50, 100, 200, 400, 800), [str(level) for level in levels])
    axes.minorticks_off()
    axes.grid(axis='y')
    axes.legend(frameon=False)
    return figure
