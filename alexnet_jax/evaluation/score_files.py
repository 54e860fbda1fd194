"""How the files of an evaluation are called: no result may replace that of another evaluation."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import ml_collections
from etils import epath

from alexnet_jax.errors import shown

LONGEST_NAME = 120  # bytes in the name of a file, of the 255 that file systems allow


class Net(Protocol):
    """A net that was scored: its run's folder and its checkpoint's step."""

    @property
    def workdir(self) -> str: ...
    @property
    def step(self) -> int | None: ...


def stem_of(config: ml_collections.ConfigDict, folder: str, nets: Sequence[Net]) -> epath.Path:
    """Return the stem of the output files, distinct from that of any other evaluation.

    Args:
      config: The evaluation's config.
      folder: The workdir to write to.
      nets: The nets.
    """
    stem = epath.Path(folder) / 'eval' / name_of(config, folder, nets)
    before = stem.with_name(f'{stem.name}.json')
    ours = [_choices(config), [[shown(net.workdir), net.step] for net in nets]]
    if before.exists() and _scored(before) != ours:
        stem = stem.with_name(f'{stem.name}-{_hash(json.dumps(ours))}')
    return stem


def _choices(config: Mapping) -> list:
    """Return what a config says of an evaluation that may change its scores, besides the nets."""
    data = [config['data'][key] for key in ('name', 'eval_split', 'eval_ops', 'eval_fraction')]
    return [*data, config['dtype'], config['precision']]


def _scored(path: epath.Path) -> list | None:
    """Return the choices and the nets of a record of scores; None if it is damaged."""
    try:
        record = json.loads(path.read_text())
        members = [[net['workdir'], net['step']] for net in record['members']]
        return [_choices(record['config']), members]
    except (ValueError, LookupError, TypeError):
        return None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def name_of(config: ml_collections.ConfigDict, folder: str, nets: Sequence[Net]) -> str:
    """Name the data, the ops and the nets: 'digits-test-resize_36-ten_crop_28-step_1000'."""
    ops = [op for op in config.data.eval_ops.split('|') if op.strip() != 'decode']
    parts = [config.data.name, config.data.eval_split, *ops]
    for net in nets:
        run = 'step' if shown(net.workdir) == shown(folder) else epath.Path(net.workdir).name
        parts.append(f'{run} {net.step}')
    name = '-'.join(re.sub(r'\W+', '_', part).strip('_') for part in parts)
    if len(encoded := name.encode()) > LONGEST_NAME:
        name = f'{encoded[: LONGEST_NAME - 9].decode(errors="ignore")}-{_hash(name)}'
    return name
