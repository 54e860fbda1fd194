"""The environment in which a run was started: environment.json."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import ml_collections

from alexnet_jax.config import FREE_KEYS, leaves

REVISION = 'ALEXNET_JAX_REVISION'  # an environment variable


def describe(config: ml_collections.ConfigDict, previous: dict | None) -> dict:
    """Return the content of environment.json.

    Args:
      config: The config of this start.
      previous: The environment.json of the start before; None for a new run.

    Returns:
      This start, with all earlier ones under `earlier`, oldest first.
    """
    earlier = []
    if previous is not None:
        last = dict(previous)
        earlier = [*last.pop('earlier', []), last]
    values = leaves(config)
    return {
        'started': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'command': sys.orig_argv,
        'free_keys': {key: values[key] for key in (*FREE_KEYS, 'epochs')},
        'versions': _versions(),
        'platform': platform.platform(),
        'hosts': jax.process_count(),
        'devices': [f'{device.platform}: {device.device_kind}' for device in jax.devices()],
        'xla_flags': os.environ.get('XLA_FLAGS', ''),
        'git_revision': git_revision(),
        'earlier': earlier,
    }


def _versions() -> dict[str, str]:
    """Return the version of Python and of every installed package."""
    packages = [(package.name, package.version) for package in importlib.metadata.distributions()]
    known = ((name, version) for name, version in packages if name)  # none if half uninstalled
    return {'python': sys.version} | dict(sorted(known))


def git_revision() -> str | None:
    """Return the commit of this code, or None if git does not track it.

    An installed package may lie in a checkout of another project, whose commit says nothing. Where
    the code is a copy without git, as on TPU hosts, the variable REVISION may hold the commit.

    The commit ends in '-dirty' if code or recipes differ from it. Other files may: the records of
    experiments grow while experiments run.
    """
    if given := os.environ.get(REVISION):
        return given
    code = Path(__file__)
    package = code.parents[1]

    def git(*arguments: str) -> subprocess.CompletedProcess:
        command = ['git', '-C', str(package.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    try:
        tracked = git('ls-files', '--error-unmatch', str(code.relative_to(package.parent)))
        head = git('rev-parse', 'HEAD')
        changes = git('diff', '--quiet', 'HEAD', '--', package.name, 'configs')
    except OSError:  # git is not installed
        return None
    if tracked.returncode or head.returncode:
        return None
    return head.stdout.strip() + ('-dirty' if changes.returncode else '')
