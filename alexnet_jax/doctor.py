"""Check devices, memory, data and workdir before training.

  python -m alexnet_jax.doctor --config=configs/NAME.py [--workdir=DIR] [--scratch=DIR]

Compiles the training step to see how much memory it needs, decodes some of the images, verifies
every checkpoint in the workdir, and prints a line for each finding: `ok`, or `FAIL` and what to do.
Every check runs, whatever the earlier ones found; if nothing is wrong, the input pipeline and the
step are timed for a few seconds each, to report which will be slower. Nothing is written except the
compiled step and the weights of an init_from in a bucket, which training finds in its cache. The
exit code is 0 if all is well, else 1.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import ml_collections
from absl import flags

from alexnet_jax import cli
from alexnet_jax.cloud.store import is_url
from alexnet_jax.config import validate_training
from alexnet_jax.errors import AlexNetError, BadInput, run_command, shown
from alexnet_jax.parallel import hardware
from alexnet_jax.parallel.runtime import configure_runtime
from alexnet_jax.run import checkpoint, manifest, place, remote, saved, workdir
from alexnet_jax.run.starting_weights import check_init_from
from alexnet_jax.training.memory import state_shapes, step_memory
from alexnet_jax.training.rate import step_rate

KEPT = checkpoint.KEEP_NEWEST + 2  # and the best, and the one being written
TIMED_SECONDS = 3.0  # of the input pipeline, after as long to settle, and of the step

Finding = tuple[bool, str]  # whether all is well, and the text


def examine(
    config: ml_collections.ConfigDict, folder: str | None, scratch: str | None = None
) -> Iterator[tuple[str, Finding]]:
    """Run every check.

    Args:
      config: A recipe with its overrides, not yet validated.
      folder: The run's workdir, or None to leave out its checks.
      scratch: The local folder that a workdir in a bucket follows; None for one in the cache.

    Yields:
      The name of the check, and a finding.
    """
    checks = {
        'config': partial(_check_config, config),
        'devices': _check_devices,
        'memory': partial(_check_memory, config),
        'data': partial(_check_data, config),
    }
    if config.get('init_from'):
        checks['init_from'] = partial(_check_init_from, config, folder)
    if folder:
        checks['workdir'] = partial(_check_workdir, config, folder)
        checks['disk'] = partial(_check_disk, config, folder, scratch)
        checks['checkpoints'] = partial(_check_checkpoints, folder)
    checks['speed'] = partial(_check_speed, config)
    is_well = True
    for name, check in checks.items():
        if name == 'speed' and not is_well:
            return  # a run would not get there
        for finding in _findings(check):
            is_well &= finding[0]
            yield name, finding


def _findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Run a check; an error is a finding too, so that the next checks run whatever it is."""
    try:
        yield from check()
    except AlexNetError as error:
        yield False, str(error)
    except Exception as error:
        yield False, f'{type(error).__name__}: {error}'


def _check_config(config: ml_collections.ConfigDict) -> Iterator[Finding]:
    validate_training(config, jax.device_count())
    per_device = config.batch_size // jax.device_count()
    yield True, f'batch_size={config.batch_size}: {per_device} examples on each device'


def _check_devices() -> Iterator[Finding]:
    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    yield True, f'{len(devices)} x {", ".join(kinds)} by jax {jax.__version__}'
    for is_there, name, extra in (
        (hardware.has_nvidia_gpu(), 'NVIDIA GPU', 'cuda13'),
        (hardware.has_tpu(), 'TPU', 'tpu'),
    ):
        if is_there and devices[0].platform == 'cpu':
            install = f'pip install "jax[{extra}]=={jax.__version__}"'
            if extra == 'cuda13':
                install += ' (cuda12 if nvidia-smi shows a driver older than 580)'
            yield False, f'JAX is not using the {name}: run {install} and unset JAX_PLATFORMS'


def _check_memory(config: ml_collections.ConfigDict) -> Iterator[Finding]:
    devices = jax.local_devices()
    stats = devices[0].memory_stats() or {}
    if 'bytes_limit' in stats:
        available, where, copies = stats['bytes_limit'], 'on each device', 1
    else:
        available, where, copies = hardware.free_memory(), 'that a run can use', len(devices)
    cli.show_progress('compiling the training step')
    try:
        found = step_memory(config)
    finally:
        cli.show_progress('')
    need = copies * found.total
    text = (
        f'a step needs {_size(need)} of {_size(available)} {where} '
        f'({_size(found.arguments)} state and batch, {_size(found.temporaries)} temporaries'
        f'{"" if copies == 1 else " per device"})'
    )
    if need > available:
        text += (
            '; lower --config.batch_size, raise --config.accum_steps or set --config.dtype=bfloat16'
        )
    yield need <= available, text


def _bytes(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if hasattr(x, 'dtype'))


def _size(count: int) -> str:
    return f'{count / 1e9:,.1f} GB' if count >= 1e9 else f'{count / 1e6:,.1f} MB'


def _check_data(config: ml_collections.ConfigDict) -> Iterator[Finding]:
    from alexnet_jax.data.examine import examine_data  # TensorFlow takes seconds to import

    yield from examine_data(config)


def _check_speed(config: ml_collections.ConfigDict) -> Iterator[Finding]:
    """Whether the data or the step limits training; on a CPU they share the cores."""
    from alexnet_jax.data import rate, sources  # TensorFlow takes seconds to import

    if sources.find_source(config.data).to_prepare():
        return
    cli.show_progress('timing the data and the step')
    try:
        data = rate.train_rate(config, TIMED_SECONDS)
        step = step_rate(config, TIMED_SECONDS)
    finally:
        cli.show_progress('')
    rates = (
        f'the data pipeline delivers about {data:,.0f} images/s, '
        f'the step takes {step:,.0f} images/s'
    )
    if jax.default_backend() == 'cpu':
        rates += f'; sharing the cores, about {1 / (1 / data + 1 / step):,.0f} together'
    if data >= step:
        yield True, f'{rates}: the step limits training'
        return
    remedy = 'prepare it once (python -m alexnet_jax.prepare), or give this machine more cores'
    yield True, f'{rates}: the data limits training; {remedy}'


def _check_workdir(config: ml_collections.ConfigDict, folder: str) -> Iterator[Finding]:
    copy = remote.local_copy(folder, weights=False)
    begins = workdir.check(copy, config)
    if is_url(folder):
        remote.check_access(folder)
    elif workdir.is_in_use(folder):
        raise BadInput(f'{folder} is in use by another run; wait for it')
    state = 'is free to use' if begins else 'holds a run of this config'
    yield True, f'{folder} {state} and is writable'


def _check_init_from(config: ml_collections.ConfigDict, folder: str | None) -> Iterator[Finding]:
    """Whether there are weights to start from, unless the workdir has a checkpoint."""
    if not folder:
        check_init_from(config)
    elif remote.find_steps(folder):
        return
    checkpoint.check_weights(remote.local_copy(config.init_from))
    yield True, f'the best checkpoint in {config.init_from} is valid'


def _check_disk(
    config: ml_collections.ConfigDict, folder: str, scratch: str | None
) -> Iterator[Finding]:
    remedy = 'use a different --workdir'
    if is_url(folder):
        folder = scratch or str(place.scratch_folder(folder))
        remedy = 'set --scratch to a folder on a larger disk'
    parent = next(p for p in (Path(folder), *Path(folder).absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    one, have = _bytes(state_shapes(config)), len(saved.find_steps(folder))
    need = max(0, KEPT - have) * one
    text = f'{_size(free)} free; a run keeps up to {KEPT} checkpoints of {_size(one)}, {have} exist'
    if need > free:
        text += f': free {_size(need - free)}, or {remedy}'
    yield need <= free, text


def _check_checkpoints(folder: str) -> Iterator[Finding]:
    if is_url(folder):
        steps = remote.find_steps(folder)
        listed = ', '.join(f'{step:,}' for step in steps)
        yield True, f'of step {listed}; the next run verifies them' if steps else 'none yet'
        return
    root = saved.folder_of(folder)
    found = {step: manifest.find_corruption(root / str(step)) for step in saved.find_steps(folder)}
    if not found:
        yield True, 'none yet: a run starts at step 1'
        return
    valid = [step for step, reason in found.items() if not reason]
    if valid:
        then = f'the next run quarantines it and continues from step {valid[0]:,}'
    else:
        then = 'none is valid: the next run quarantines it and stops; the one after starts over'
    scores = saved.read_scores(folder)
    for step, reason in found.items():
        if reason:
            yield False, f'step {step:,} is corrupt ({reason}); {then}'
        else:
            yield True, f'step {step:,} is valid{_score(scores.get(step, {}))}'


def _score(scores: dict[str, float]) -> str:
    return f', top-1 {scores["top1"]:.2%}' if 'top1' in scores else ''


def main() -> None:
    """Print the findings; exit with 1 if one is bad."""
    cli.define_flags(scratch=True)
    _, *others = cli.parse_flags(sys.argv)
    if flags.FLAGS.config is None or others:
        raise BadInput(
            'usage: python -m alexnet_jax.doctor --config=configs/NAME.py [--workdir=DIR] '
            '[--scratch=DIR]'
        )
    cli.check_scratch()
    # A config that lacks a key is one of the findings.
    configure_runtime(bool(flags.FLAGS.config.get('deterministic')))
    is_well = True
    for name, (is_ok, text) in examine(
        flags.FLAGS.config, flags.FLAGS.workdir, flags.FLAGS.scratch
    ):
        line = f'{"ok" if is_ok else "FAIL":4}  {name:11}  {" ".join(text.split())}'
        print(shown(line), flush=True)
        is_well &= is_ok
    if not is_well:
        sys.exit(1)


if __name__ == '__main__':
    run_command(main)
