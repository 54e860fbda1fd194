"""Check devices, data and workdir before training.

  python -m alexnet_jax.doctor --config=configs/NAME.py --workdir=runs/x

Looks at the devices, their memory, the data, the workdir and every checkpoint in it, and prints a
line for each: `ok`, or `FAIL` and what to do. It runs every check, whatever the ones before found,
and writes nothing. Without --workdir it leaves out what concerns one. Exit code 0 if all is well,
else 1.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from etils import epath

from alexnet_jax import cli
from alexnet_jax.config import validate
from alexnet_jax.errors import AlexNetError, BadInput, run_command
from alexnet_jax.model import variants
from alexnet_jax.run import checkpoint, manifest, workdir
from alexnet_jax.training import optimizer
from alexnet_jax.training.step import TrainState, create_train_state

SAMPLE_IMAGES = 50  # of each split that are decoded
SAMPLE_LABELS = 1000  # of a split whose labels are not in memory
KEPT = checkpoint.KEEP_NEWEST + 2  # the best, and the one being written

Finding = tuple[bool, str]  # whether it is well, and what was found


def examine(config: ml_collections.ConfigDict, folder: str | None) -> Iterator[tuple[str, Finding]]:
    """Run every check.

    Args:
      config: a recipe with its overrides, not yet validated.
      folder: workdir of the run, or None to leave it out.

    Yields:
      What was looked at, and the finding. Nothing is written.
    """
    checks = {
        'config': partial(_check_config, config),
        'devices': _check_devices,
        'memory': partial(_check_memory, config),
        'data': partial(_check_data, config),
    }
    if folder:
        checks['workdir'] = partial(_check_workdir, config, folder)
        checks['disk'] = partial(_check_disk, config, folder)
        checks['checkpoints'] = partial(_check_checkpoints, folder)
    for name, check in checks.items():
        try:
            for finding in check():
                yield name, finding
        except AlexNetError as error:
            yield name, (False, str(error))
        except Exception as error:  # the checks after this one are to run all the same
            yield name, (False, f'{type(error).__name__}: {error}')


def _check_config(config: ml_collections.ConfigDict) -> Iterator[Finding]:
    validate(config, jax.device_count())
    per_device = config.batch_size // jax.device_count()
    yield True, f'batch_size={config.batch_size}: {per_device} examples on each device'


def _check_devices() -> Iterator[Finding]:
    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    yield True, f'{len(devices)} x {", ".join(kinds)} by jax {jax.__version__}'
    if Path('/proc/driver/nvidia/version').exists() and devices[0].platform == 'cpu':
        install = f'pip install "jax[cuda13]=={jax.__version__}"'
        yield False, f'the NVIDIA GPU here is not used: {install} and unset JAX_PLATFORMS'


def _check_memory(config: ml_collections.ConfigDict) -> Iterator[Finding]:
    devices = jax.local_devices()
    examples = config.batch_size // config.accum_steps // jax.device_count()
    state, activations = _step_bytes(config, max(1, examples))
    stats = devices[0].memory_stats() or {}
    if 'bytes_limit' in stats:
        available, where = stats['bytes_limit'], 'on each device'
        need = state + activations
    else:
        available, where = _host_bytes(), 'free on this machine'
        need = len(devices) * (state + activations)
    text = (
        f'a step takes up to {_size(need)} of {_size(available)} {where} '
        f'({_size(state)} weights, velocities and gradients, {_size(activations)} activations'
        f'{"" if len(devices) == 1 else " on each"})'
    )
    if need > available:
        text += '; lower --config.batch_size, or set --config.dtype=bfloat16'
    yield need <= available, text


def _step_bytes(config: ml_collections.ConfigDict, batch_size: int) -> tuple[int, int]:
    """Bytes of state and gradients, and of what the forward pass keeps for the backward pass.

    The second is an upper bound: XLA fuses some of it away.
    """
    model = variants.make_model(config)
    state = _state_shapes(config)
    params = state.params
    shape = (batch_size, config.image_size, config.image_size, 3)
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    keys = jax.eval_shape(
        lambda: jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(batch_size))
    )

    def forward(params, batch_stats, image, keys):
        def apply(p):
            variables, mask = {'params': p, 'batch_stats': batch_stats}, jnp.ones(batch_size)
            return model.apply(
                variables, image, train=True, dropout_keys=keys, mask=mask, mutable=['batch_sums']
            )[0]

        return jax.vjp(apply, params)[1]

    kept = jax.eval_shape(forward, params, state.batch_stats, image, keys)
    kept = _bytes(kept) - _bytes(params)
    return _bytes(state) + _bytes(params), max(0, kept)


def _state_shapes(config: ml_collections.ConfigDict) -> TrainState:
    """The state of a run, as shapes and dtypes; the number of examples does not matter to it."""
    transform = optimizer.make_optimizer(config, optimizer.make_schedule(config, 1000), 1000)
    model, size = variants.make_model(config), config.image_size
    return jax.eval_shape(lambda: create_train_state(model, transform, size, config.seed))


def _bytes(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if hasattr(x, 'dtype'))


def _host_bytes() -> int:
    """Memory that a new process could use."""
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith('MemAvailable'))
    except (OSError, StopIteration):  # no Linux
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _size(count: int) -> str:
    return f'{count / 1e9:,.1f} GB' if count >= 1e9 else f'{count / 1e6:,.1f} MB'


def _check_data(config: ml_collections.ConfigDict) -> Iterator[Finding]:
    from alexnet_jax.data import pipeline, sources  # bring TensorFlow
    from alexnet_jax.data.ops.chain import parse

    source = sources.find_source(config.data)
    if note := source.to_prepare():
        yield True, note
        return
    dataset = source.open()
    splits = {config.data.train_split: dataset.train, config.data.eval_split: dataset.eval}
    sizes = ', '.join(f'{len(split):,} {name}' for name, split in splits.items())
    yield True, f'{config.data.name} has {sizes} examples of {len(dataset.class_names):,} classes'
    chain = parse('decode', config.data.max_pixels)
    for split in splits.values():
        yield _decode_sample(chain, split, config.data.on_bad_image)
    for name, split in splits.items():
        yield _count_classes(name, split, dataset.class_names)
    del dataset, splits, split
    data = pipeline.Data(config)
    outputs = f'the network has {config.num_classes:,} outputs'
    if len(data.class_names) < config.num_classes:
        outputs += f', more than classes: --config.num_classes={len(data.class_names)} would do'
    yield True, f'the ops give images of {config.image_size} x {config.image_size}; {outputs}'


def _decode_sample(chain, split, on_bad_image: str) -> Finding:
    """Whether some examples of a split, evenly spaced, decode."""
    from alexnet_jax.data.ops.chain import clean
    from alexnet_jax.data.reader import IMAGE_ERRORS

    indices = _spread(len(split), SAMPLE_IMAGES)
    bad = {}
    for index in indices:
        try:
            chain(split.read(np.array([index]))[0][0])
        except IMAGE_ERRORS as error:
            bad[split.describe(index)] = clean(error)
    if not bad:
        first, last = split.describe(0), split.describe(len(split) - 1)
        return True, f'{len(indices)} images decode, from {first} to {last}'
    name, reason = next(iter(bad.items()))
    text = f'{len(bad)} of {len(indices)} images cannot be used, the first {name}: {reason}'
    if on_bad_image == 'stop':
        text += '; fix or remove it, or set --config.data.on_bad_image=skip'
    return False, text


def _count_classes(name: str, split, class_names: tuple[str, ...]) -> Finding:
    """How many examples the classes of a split have."""
    labels = getattr(split, 'labels', None)
    is_sample = labels is None
    if is_sample:
        labels = split.read(_spread(len(split), SAMPLE_LABELS))[1]
    counts = np.bincount(labels[labels >= 0], minlength=len(class_names))
    if (labels < 0).any() or len(counts) > len(class_names):
        return False, f'{name} has labels outside 0 .. {len(class_names) - 1}; prepare it again'
    if is_sample:
        seen = np.count_nonzero(counts)
        return True, f'{name}: {seen:,} classes among {len(labels):,} examples, evenly spaced'
    low, high = int(counts.argmin()), int(counts.argmax())
    if counts[low] == 0:
        empty = [class_names[i] for i in np.flatnonzero(counts == 0)]
        names = ', '.join(empty[:5]) + (' ...' if len(empty) > 5 else '')
        return False, f'{name} has no example of {len(empty):,} classes: {names}; add some'
    return True, (
        f'{name}: {counts[low]:,} ({class_names[low]}) to {counts[high]:,} ({class_names[high]}) '
        f'examples a class'
    )


def _spread(size: int, most: int) -> np.ndarray:
    """Indices from 0 to size - 1, evenly spaced, at most `most` of them."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).astype(int))


def _check_workdir(config: ml_collections.ConfigDict, folder: str) -> Iterator[Finding]:
    workdir.check(folder, config)
    if workdir.is_in_use(folder):
        raise BadInput(f'{folder} is in use by another run; wait for it')
    state = 'holds a run of this config' if workdir.has_run(folder) else 'is free to use'
    yield True, f'{folder} {state} and can be written'


def _check_disk(config: ml_collections.ConfigDict, folder: str) -> Iterator[Finding]:
    if '://' in folder:
        yield True, f'{folder} is not on a disk of this machine: its space is not known'
        return
    parent = next(p for p in (Path(folder), *Path(folder).absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    one, have = _bytes(_state_shapes(config)), len(checkpoint.find_steps(folder))
    need = max(0, KEPT - have) * one
    text = (
        f'{_size(free)} free; up to {KEPT} checkpoints of {_size(one)} are kept, {have} are there'
    )
    if need > free:
        text += f': free {_size(need - free)}, or take another --workdir'
    yield need <= free, text


def _check_checkpoints(folder: str) -> Iterator[Finding]:
    root = checkpoint.folder_of(folder)
    found = {step: manifest.find_corruption(root / str(step)) for step in _steps(folder)}
    sound = [step for step, reason in found.items() if not reason]
    if not found:
        yield True, 'none yet: a run starts at step 1'
    elif sound:
        then = f'the next run moves it aside and continues from step {sound[0]:,}'
    else:
        then = 'and none is sound: the next run moves it aside and stops, the one after starts over'
    scores = checkpoint.read_scores(folder)
    for step, reason in found.items():
        if reason:
            yield False, f'step {step:,} is corrupt ({reason}); {then}'
        else:
            yield True, f'step {step:,} is valid{_score(scores.get(step, {}))}'


def _steps(folder: str) -> list[int]:
    return checkpoint.find_steps(folder) if epath.Path(folder).is_dir() else []


def _score(scores: dict[str, float]) -> str:
    return f', top-1 {scores["top1"]:.2%}' if 'top1' in scores else ''


def main() -> None:
    """Print the findings; exit code 1 if one is bad."""
    cli.define_flags()
    _, *others = cli.parse_flags(sys.argv)
    if flags.FLAGS.config is None or others:
        raise BadInput(
            'usage: python -m alexnet_jax.doctor --config=configs/NAME.py [--workdir=DIR]'
        )
    all_well = True
    for name, (is_well, text) in examine(flags.FLAGS.config, flags.FLAGS.workdir):
        print(f'{"ok" if is_well else "FAIL":4}  {name:11}  {" ".join(text.split())}', flush=True)
        all_well &= is_well
    if not all_well:
        sys.exit(1)


if __name__ == '__main__':
    run_command(main)
