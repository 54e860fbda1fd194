"""The folder of a run: its config, its environment, and the lock that keeps a second run out."""

import datetime
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from alexnet_jax.config import ADDED_KEYS, FREE_KEYS, default_config, leaves
from alexnet_jax.errors import BadInput
from alexnet_jax.model import variants
from alexnet_jax.model.shapes import parameter_names

LAG = 60  # seconds after which NFS, by default, has asked again what is in a folder


def check(workdir: str, config: ml_collections.ConfigDict) -> None:
    """Refuse a workdir that this config cannot use; writes nothing.

    Raises:
      BadInput: it cannot be written, or holds a run whose config differs in a key that changes
        results; or `init_from` holds no run, or one of another network.
    """
    if has_run(workdir):
        _check_config(workdir, read_config(workdir), config)
    elif config.init_from:
        _check_init_from(config)
    check_writable(workdir)


def check_writable(workdir: str) -> None:
    """Refuse a local folder that cannot be made or written; writes nothing.

    Raises:
      BadInput: says why.
    """
    if isinstance(epath.Path(workdir), Path) or '://' not in str(workdir):
        parent = Path(workdir).absolute()
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
        if not parent.is_dir():
            raise BadInput(f'workdir {workdir} cannot be made: {parent} is a file')
        if not os.access(parent, os.W_OK):
            raise BadInput(f'workdir {workdir} cannot be written: no permission in {parent}')


def _check_config(
    workdir: str, before: ml_collections.ConfigDict, now: ml_collections.ConfigDict
) -> None:
    defaults = leaves(default_config())
    both = ({key: defaults[key] for key in ADDED_KEYS} | leaves(before), leaves(now))
    old, new = (json.loads(json.dumps(values)) for values in both)
    changed = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and key not in FREE_KEYS
        and not (key == 'epochs' and new[key] > old.get(key, math.inf))
    ]
    if changed:
        differences = ', '.join(f'{k}: {old.get(k)!r} -> {new.get(k)!r}' for k in changed)
        raise BadInput(
            f'{workdir} holds a run with another config ({differences}); '
            f'undo the change or take another --workdir'
        )


def _check_init_from(config: ml_collections.ConfigDict) -> None:
    """The other run has the layers of this one; their sizes may differ."""
    try:
        other = read_config(config.init_from)
    except BadInput as error:
        raise BadInput(f'init_from: {error}') from error
    now, before = (
        parameter_names(variants.build(c.variant, c.edits, c.num_classes)) for c in (config, other)
    )
    if missing := sorted(set(now) - set(before)):
        raise BadInput(
            f'init_from={config.init_from} has no {missing[0]}; it has {", ".join(before)}: take a '
            f'run of a like network'
        )


def create(workdir: str, config: ml_collections.ConfigDict, class_names: list[str]) -> None:
    """Make the folder, lock it for this run, and write what describes it; process 0 does.

    Raises:
      BadInput: it cannot be written, another process is using it, or its run had other classes.
    """
    if jax.process_index() > 0:
        return
    folder = epath.Path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder)
        if (folder / 'classes.json').exists() and read_classes(workdir) != list(class_names):
            raise BadInput(
                f'{workdir} holds a run with other classes than {config.data.name} has now: '
                f'restore the data or take another --workdir'
            )
        _write_json(folder / 'config.json', json.loads(config.to_json()))
        _write_json(folder / 'classes.json', list(class_names))
        _write_json(folder / 'environment.json', _environment(folder / 'environment.json', config))
    except OSError as error:
        raise BadInput(f'workdir {workdir} cannot be written: {error.strerror}') from error


def check_is_shared(workdir: str) -> None:
    """Of several processes, each sees what process 0 has written; call after `create`.

    Raises:
      BadInput: this one does not. It would wait for the statistics forever.
    """
    if jax.process_count() == 1:
        return
    path = epath.Path(workdir) / 'environment.json'  # has the time of this start

    def seen() -> int:
        return zlib.crc32(path.read_bytes()) if path.exists() else 0

    written = int(multihost_utils.broadcast_one_to_all(np.uint32(seen())))
    until = time.monotonic() + LAG
    while seen() != written:
        if time.monotonic() > until:
            raise BadInput(
                f'workdir {workdir} is not here the folder that process 0 writes; take one that '
                f'every host sees, on a network file system or cloud storage'
            )
        time.sleep(0.5)


def has_run(workdir: str) -> bool:
    """Whether a run was started in this folder."""
    return (epath.Path(workdir) / 'config.json').exists()


def read_config(workdir: str) -> ml_collections.ConfigDict:
    """The config of the run in a workdir.

    Raises:
      BadInput: there is none.
    """
    values = _read_json(workdir, 'config.json', dict)
    return ml_collections.ConfigDict(_tuples(values))


def read_classes(workdir: str) -> list[str]:
    """Class names in label order.

    Raises:
      BadInput: there are none.
    """
    return _read_json(workdir, 'classes.json', list)


def _read_json(workdir: str, name: str, kind: type) -> Any:
    path = epath.Path(workdir) / name
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise BadInput(f'{workdir} holds no run: {path} cannot be read') from error
    except ValueError as error:
        raise BadInput(f'{path} is damaged: {error}; take another --workdir') from error
    if not isinstance(value, kind):
        raise BadInput(f'{path} is damaged: it holds no {kind.__name__}; take another --workdir')
    return value


def _tuples(value):
    """JSON's lists as the tuples that configs have."""
    if isinstance(value, dict):
        return {key: _tuples(v) for key, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _lock(folder: epath.Path) -> None:
    """Hold an advisory lock until this process ends, however it ends. On local folders only."""
    if '://' in str(folder):
        return
    file = open(folder / '.lock', 'w')  # noqa: SIM115  closing it would give up the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BadInput(
            f'workdir {folder} is in use by another run; wait for it or take another --workdir'
        ) from error
    _locks.append(file)


_locks: list = []


def write_text(path: epath.Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_text(text)
    temporary.replace(path)


def _write_json(path: epath.Path, value) -> None:
    write_text(path, json.dumps(value, indent=2) + '\n')


def _environment(path: epath.Path, config: ml_collections.ConfigDict) -> dict:
    """Of this start, with the starts before it under `earlier`."""
    earlier = []
    if path.exists():
        last = _read_json(str(path.parent), path.name, dict)
        earlier = [*last.pop('earlier', []), last]
    free = {key: leaves(config)[key] for key in (*FREE_KEYS, 'epochs')}
    return {
        'started': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'command': sys.orig_argv,
        'free_keys': free,
        'versions': _versions(),
        'platform': platform.platform(),
        'hosts': jax.process_count(),
        'devices': [f'{device.platform}: {device.device_kind}' for device in jax.devices()],
        'xla_flags': os.environ.get('XLA_FLAGS', ''),
        'git_revision': _git_revision(),
        'earlier': earlier,
    }


def _versions() -> dict[str, str]:
    """Of Python and of every package that is installed."""
    found = {package.name: package.version for package in importlib.metadata.distributions()}
    return {'python': sys.version} | dict(sorted(found.items()))


def _git_revision() -> str | None:
    """The commit of this code, '-dirty' behind it where files were changed; None outside git."""
    try:
        return subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*'],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
