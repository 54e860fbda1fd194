"""A run's folder: its config, its class names, and the lock that keeps a second run out."""

import contextlib
import json
import math
import shlex
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from etils import epath

from alexnet_jax import files
from alexnet_jax.config import FREE_KEYS, leaves
from alexnet_jax.data.sources.inside import is_read
from alexnet_jax.data.sources.layout import expand
from alexnet_jax.errors import BadInput, shown
from alexnet_jax.parallel import processes
from alexnet_jax.run import environment, saved
from alexnet_jax.run.starting_weights import check_init_from
from alexnet_jax.run.writable import check_path, check_writable
from alexnet_jax.saved_config import read_config, read_json

LAG = 60  # seconds after which NFS, by default, has refreshed its listing of a folder
LOCK = '.lock'
CONTENTS = 'data.json'
# Kinds of data whose name is their location. A run identifies them by their contents.
KNOWN_BY_CONTENTS = ('folder:', 'prepared:')
# What a run writes once it trains, besides its checkpoints and records.
SIGNS_OF_TRAINING = ('diverged.json', 'wandb.json', 'mlflow.json')


def check(workdir: str, config: ml_collections.ConfigDict) -> bool:
    """Refuse a workdir that this config cannot use. Writes nothing.

    Returns:
      Whether a run begins there, since none has, or one of another config that has not trained.

    Raises:
      BadInput: The workdir is not writable, lies where images are listed, or holds a run that has
        begun to train with a config that differs in a key that changes results, or converted
        weights; or `init_from` holds no run, or a run of another network, or lacks the mean image
        that `data.mean` needs.
    """
    check_writable(workdir)
    check_path(workdir)
    check_outside(workdir, config.data)
    if has_run(workdir):
        if read_source(workdir) is not None:
            raise BadInput(
                f'{workdir} holds converted weights; fine-tune them into another --workdir, with '
                f'--config=finetune:{shlex.quote(shown(workdir))},PATH'
            )
        changed = _check_config(workdir, read_config(workdir), config)
        if not changed:
            return False
    if config.init_from:
        check_init_from(config)
    return True


def check_outside(workdir: str, data: ml_collections.ConfigDict) -> None:
    """Refuse a workdir among the images: once it holds checkpoints, they would count as a class.

    Args:
      workdir: A local folder.
      data: `config.data`.

    Raises:
      BadInput: It lies where images are listed.
    """
    kind, _, path = data.name.partition(':')
    if kind == 'folder' and is_read(workdir, path, data.train_split, data.eval_split):
        remedy = 'move it outside and pass its new path' if has_run(workdir) else 'use one outside'
        raise BadInput(
            f'workdir {workdir} is inside the image folder {expand(path)}, where it would count as '
            f'a class; {remedy}'
        )


def _check_config(
    workdir: str, before: ml_collections.ConfigDict, now: ml_collections.ConfigDict
) -> bool:
    """Refuse a config that changes the results of a run that has begun to train.

    Returns:
      Whether it changes those of one that has not. That may: the first images were perhaps
      damaged, the network too large for this machine, or a flag mistyped.
    """
    old, new = (json.loads(json.dumps(leaves(config))) for config in (before, now))
    changed = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and key not in FREE_KEYS
        and not (key == 'epochs' and new[key] > old.get(key, math.inf))
        and not (key == 'data.name' and _may_have_moved(workdir, old.get(key), new.get(key)))
    ]
    if changed and _has_begun(epath.Path(workdir)):
        differences = ', '.join(f'{k}: {old.get(k)!r} -> {new.get(k)!r}' for k in changed)
        raise BadInput(
            f'{workdir} holds a run with a different config ({differences}); '
            f'undo the change or use a different --workdir'
        )
    return bool(changed)


def _has_begun(folder: epath.Path) -> bool:
    """Return whether a run has trained: whether there is anything that came from its config."""
    records = folder / 'metrics.jsonl'  # which a run opens before its first step
    return (
        bool(saved.find_steps(str(folder)))
        or (records.exists() and records.stat().length > 0)
        or any((folder / name).exists() for name in SIGNS_OF_TRAINING)
    )


def _may_have_moved(workdir: str, before: str | None, now: str | None) -> bool:
    """Return whether two names may mean the same data: then `create` compares the contents."""
    return (epath.Path(workdir) / CONTENTS).exists() and any(
        (before or '').startswith(kind) and (now or '').startswith(kind)
        for kind in KNOWN_BY_CONTENTS
    )


def create(
    workdir: str,
    config: ml_collections.ConfigDict,
    class_names: Sequence[str],
    contents: Mapping[str, str] | None = None,
) -> contextlib.ExitStack:
    """Create the folder, lock it, and write what describes the run. Only process 0 does anything.

    Args:
      workdir: The run's folder.
      config: The run's config.
      class_names: The names of the classes, in label order.
      contents: A fingerprint of the data, part by part; None if it is not known.

    Returns:
      The lock of the folder, to be kept for as long as the run lasts: a context manager that
      releases it, as does the end of the process.

    Raises:
      BadInput: The folder is not writable or is in use, or its run had a different config or
        different data.
    """
    folder = epath.Path(workdir)
    with contextlib.ExitStack() as lock:
        if jax.process_index() > 0:
            return lock
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.enter_context(files.lock(folder / LOCK))
            _describe(folder, config, class_names, contents)
        except BlockingIOError as error:
            raise BadInput(
                f'workdir {workdir} is in use by another run; wait for it or use a different '
                f'--workdir'
            ) from error
        except OSError as error:
            raise BadInput(f'cannot write workdir {workdir}: {error.strerror}') from error
        return lock.pop_all()


def _describe(
    folder: epath.Path,
    config: ml_collections.ConfigDict,
    class_names: Sequence[str],
    contents: Mapping[str, str] | None,
) -> None:
    changed = False
    if has_run(str(folder)):  # another run may have come and gone since `check`
        changed = _check_config(str(folder), read_config(str(folder)), config)
    if contents is not None and (folder / CONTENTS).exists():
        _check_contents(folder, config, contents)
    if (folder / 'classes.json').exists() and read_classes(str(folder)) != list(class_names):
        changed = True
        if _has_begun(folder):
            raise BadInput(
                f'{folder} holds a run whose classes differ from those that {config.data.name} has '
                f'now: restore the data or use a different --workdir'
            )
    if changed:
        (folder / 'statistics.npz').unlink(missing_ok=True)  # of other images or ops, perhaps
    path = folder / 'environment.json'
    previous = read_json(str(folder), path.name, dict) if path.exists() else None
    _write_json(folder / 'config.json', json.loads(config.to_json()))
    _write_json(folder / 'classes.json', list(class_names))
    if contents is not None:
        _write_json(folder / CONTENTS, dict(contents))
    _write_json(path, environment.describe(config, previous))


def _check_contents(
    folder: epath.Path, config: ml_collections.ConfigDict, now: Mapping[str, str]
) -> None:
    """Refuse data that changed since the run was started: its batches would differ.

    If training has not begun, discard the statistics instead: a bad image may have been removed.
    """
    change = describe_change(read_json(str(folder), CONTENTS, dict), now)
    if change and not saved.find_steps(str(folder)):
        (folder / 'statistics.npz').unlink(missing_ok=True)
    elif change:
        raise BadInput(
            f'{config.data.name} has changed since the run in {folder} was started: {change}; '
            f'restore the data or use a different --workdir'
        )


def describe_change(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return the first part that differs between two fingerprints, and how many more do, or ''."""
    changed = [part for part in {**before, **now} if before.get(part) != now.get(part)]
    if not changed:
        return ''
    first = changed[0]
    more = f' and {len(changed) - 1:,} more' if len(changed) > 1 else ''
    return f'{first} ({before.get(first, "absent")} -> {now.get(first, "absent")}){more}'


def is_in_use(workdir: str) -> bool:
    """Return whether a run holds the lock of a workdir."""
    return files.is_locked(Path(workdir) / LOCK)


def check_is_shared(workdir: str) -> None:
    """Check that every process sees what process 0 has written. Call after `create`.

    Raises:
      BadInput: This process does not see it. It would wait forever for the statistics.
    """
    if jax.process_count() == 1:
        return
    path = epath.Path(workdir) / 'environment.json'  # contains the time of this start

    def seen() -> int:
        return zlib.crc32(path.read_bytes()) if path.exists() else 0

    written = processes.of_process_0(seen())
    until = time.monotonic() + LAG
    while seen() != written:
        if time.monotonic() > until:
            raise BadInput(
                f'workdir {workdir} on this host is not the folder that process 0 writes to; use '
                f'one that every host can see, on a network file system, or gs:// or s3://'
            )
        time.sleep(0.5)


def has_run(workdir: str) -> bool:
    """Return whether a run was started in this folder."""
    return (epath.Path(workdir) / 'config.json').exists()


def read_classes(workdir: str) -> list[str]:
    """Return the class names, in label order.

    Raises:
      BadInput: There are none.
    """
    return read_json(workdir, 'classes.json', list)


def read_source(workdir: str) -> dict[str, Any] | None:
    """Return where converted weights came from, source.json; None if the run was trained here.

    Raises:
      BadInput: The file is damaged.
    """
    exists = (epath.Path(workdir) / 'source.json').exists()
    return read_json(workdir, 'source.json', dict) if exists else None


def write_source(workdir: str, source: dict[str, Any]) -> None:
    """Record where converted weights came from."""
    _write_json(epath.Path(workdir) / 'source.json', source)


def _write_json(path: epath.Path, value: Any) -> None:
    files.write(path, json.dumps(value, indent=2) + '\n')
