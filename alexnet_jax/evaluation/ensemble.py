"""Scoring a trained net, or several together: what `main --mode=eval` does.

The probabilities are averaged over the views of each image that data.eval_ops gives (one center
crop, the paper's ten) and over the nets (the paper's five). It reads workdirs, locks none and
trains nothing, so that a run can be scored while it trains.
"""

import dataclasses
import datetime
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import jax
import ml_collections
import numpy as np
from etils import epath

from alexnet_jax import files
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.evaluation import scores, steps
from alexnet_jax.model import variants
from alexnet_jax.parallel import pmap
from alexnet_jax.run import checkpoint, recorded_config, workdir
from alexnet_jax.run.logger import track

NETWORK_KEYS = ('variant', 'edits', 'num_classes', 'image_size')
COMMON_KEYS = ('num_classes', 'image_size')  # that the nets of an ensemble share
LONGEST_NAME = 120  # characters, of a file


@dataclasses.dataclass(frozen=True)
class Member:
    """A net to score.

    Attributes:
      workdir: of its run.
      step: of its checkpoint; None for the one with the best eval top-1.
      config: of its run, which names the network; but for the dtype to compute in.
    """

    workdir: str
    step: int | None
    config: ml_collections.ConfigDict


class Data(Protocol):
    """What scoring asks of a data set: `data.pipeline.Data`, or plain NumPy in tests."""

    eval_size: int
    class_names: Sequence[str]

    def eval_batches(self) -> Iterator[steps.Batch]: ...


def plan(
    config: ml_collections.ConfigDict | None,
    folder: str | None,
    checkpoints: str | None,
    eval_ops: str | None,
) -> tuple[ml_collections.ConfigDict, list[Member]]:
    """What is to be scored, on which data; looks at workdirs and writes nothing.

    Args:
      config: names the data and their ops; None for the config of the (first) net's run.
      folder: the workdir: of the net, if `checkpoints` names none, and of the files to write.
      checkpoints: 'DIR[@STEP],DIR[@STEP],...', each DIR the workdir of a run.
      eval_ops: in place of the config's data.eval_ops.

    Returns:
      The config of this evaluation, and the nets.

    Raises:
      BadInput: no run or checkpoint of that name, or networks that do not fit together.
      RunError: a run without checkpoints.
    """
    if not folder:
        raise BadInput('pass --workdir=DIR, the folder of a run')
    workdir.check_writable(folder)
    texts = checkpoints.split(',') if checkpoints else [folder]
    members = [_find(text, has_step=bool(checkpoints)) for text in texts]
    config = config or members[0].config
    for member in members:
        _check_network(member, config, COMMON_KEYS if checkpoints else NETWORK_KEYS)
        if workdir.read_classes(member.workdir) != workdir.read_classes(members[0].workdir):
            raise BadInput(
                f'{member.workdir} has other classes than {members[0].workdir}; score each by '
                f'itself'
            )
        member.config.dtype = config.dtype
    if eval_ops is not None:
        config.data.eval_ops = eval_ops
    # Of training only: here a batch is what a microbatch is there.
    config.batch_size //= config.accum_steps
    config.accum_steps = config.ghost_batch_size = 1
    return config, members


def _find(text: str, has_step: bool) -> Member:
    """The net that 'DIR@STEP' or 'DIR' names."""
    match = re.fullmatch(r'(.+)@(\d+)', text) if has_step else None
    folder, step = (match[1], int(match[2])) if match else (text, None)
    if not folder:
        raise BadInput('--checkpoints names no folder; it must be DIR[@STEP],DIR[@STEP],...')
    config = recorded_config.get_config(str(epath.Path(folder) / 'config.json'))
    best = checkpoint.best_step(folder)
    if step is not None and step not in (found := checkpoint.find_steps(folder)):
        known = ', '.join(map(str, found))
        raise BadInput(f'{folder} has no checkpoint of step {step}; it has {known} (best: {best})')
    return Member(folder, step, config)


def _check_network(member: Member, config: ml_collections.ConfigDict, keys: Sequence[str]) -> None:
    for key in keys:
        if (found := member.config[key]) != config[key]:
            hint = 'leave --config out to take the config of the run'
            if keys == COMMON_KEYS:
                hint = f'all nets of an ensemble take the same {" and ".join(keys)}'
            raise BadInput(
                f'the network in {member.workdir} has {key}={found!r}, and this evaluation '
                f'{config[key]!r}: {hint}'
            )


def fit_batch(config: ml_collections.ConfigDict, devices: int) -> None:
    """Set the batch size such that views and devices take no more memory than training does.

    It does not change the scores. With the course net on a CPU, 128 images take 0.8 GiB, weights
    included, their ten crops 4.0 and ten crops of 12 images 0.8, at the same speed.

    Args:
      config: of the evaluation.
      devices: accelerators over all hosts.

    Raises:
      BadInput: bad ops.
    """
    from alexnet_jax.data.ops.chain import parse  # brings TensorFlow

    views = parse(config.data.eval_ops).views
    config.batch_size = devices * max(1, config.batch_size // (devices * views))


def score(
    config: ml_collections.ConfigDict, folder: str, data: Data, members: Sequence[Member]
) -> None:
    """Score every example once; print a table and write files to `folder/eval`.

    Args:
      config, members: of `plan`.
      folder: the workdir.
      data: of the config, with its class_names.

    Raises:
      BadInput: the nets were trained on other classes than the data have.
      RunError: a checkpoint or an image is damaged.
    """
    names = list(data.class_names)
    if workdir.read_classes(members[0].workdir) != names:
        raise BadInput(
            f'{members[0].workdir} was trained on other classes than {config.data.name} has now: '
            f'take the data that it was trained on'
        )
    loaded = [_load(member) for member in members]
    tally, views = scores.Tally.of(config.num_classes), 1
    for batch in track(data.eval_batches(), math.ceil(data.eval_size / config.batch_size)):
        votes = jax.device_get([predict(batch['image']) for _, predict in loaded])
        tally.add(scores.average(votes), batch['label'], batch['mask'])
        views = math.prod(batch['image'].shape[1:-3])
    tally = tally.over_processes()
    figures = tally.figures()
    if (found := figures['examples'] + figures['bad_images']) != data.eval_size:
        raise RunError(f'evaluation saw {found} examples where the split has {data.eval_size}')
    if jax.process_index() == 0:
        nets = [(member, step) for member, (step, _) in zip(members, loaded, strict=True)]
        _report(config, folder, tally, names, views, nets)


def _load(member: Member) -> tuple[int, Callable[[np.ndarray], jax.Array]]:
    """The step of a net and its predict step, with its weights and mean image in place."""
    from alexnet_jax.data import statistics  # brings TensorFlow

    step = checkpoint.best_step(member.workdir) if member.step is None else member.step
    try:
        variables = checkpoint.load_variables(member.workdir, step)
    except RunError:
        if member.step is None and step not in checkpoint.find_steps(member.workdir):
            return _load(member)  # the run, which is training, replaced it by a better one
        raise
    model, size = variants.make_model(member.config), member.config.image_size
    image = np.zeros((1, size, size, 3), np.float32)
    expected = {'batch_stats': {}} | jax.eval_shape(model.init, jax.random.key(0), image)
    if jax.tree.map(np.shape, variables) != jax.tree.map(np.shape, expected):
        raise RunError(
            f'checkpoint {checkpoint.folder_of(member.workdir) / str(step)} is of another network '
            f'than {member.config.variant} is now'
        )
    mean = np.zeros(image.shape[1:], np.float32)
    if member.config.data.mean == 'image':
        mean = statistics.load(epath.Path(member.workdir) / 'statistics.npz').center(size)
    predict, variables = steps.make_predict_step(model, mean), pmap.replicate(variables)
    return step, lambda image: predict(variables, image)


def _report(
    config: ml_collections.ConfigDict,
    folder: str,
    tally: scores.Tally,
    names: Sequence[str],
    views: int,
    nets: Sequence[tuple[Member, int]],
) -> None:
    """Print the table, then write it whole, for machines."""
    rows = [('net', f'{member.workdir}, step {step:,}') for member, step in nets]
    rows.append(('data', f'{config.data.name}, {config.data.eval_split}'))
    each = f'{views:,} view{"s" if views > 1 else ""} of each image'
    rows.append(('ops', f'{config.data.eval_ops}  ({each})'))
    for what, figure in [*rows, *scores.table(tally, names)]:
        print(f'{what:14}  {figure}', flush=True)

    stem = epath.Path(folder) / 'eval' / _file_name(config, folder, nets)
    stem.parent.mkdir(parents=True, exist_ok=True)
    record = {
        **tally.figures(),
        'views': views,
        'members': [
            {
                'workdir': member.workdir,
                'step': step,
                'variant': member.config.variant,
                'edits': list(member.config.edits),
            }
            for member, step in nets
        ],
        'data': config.data.name,
        'split': config.data.eval_split,
        'ops': config.data.eval_ops,
        'evaluated': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'command': sys.orig_argv,
        'config': json.loads(config.to_json()),
    }
    texts = {
        '.per_class.csv': scores.per_class_csv(tally, names),
        '.confusion.csv': scores.confusion_csv(tally, names),
        '.json': json.dumps(record, indent=2) + '\n',  # the last: it says that all are there
    }
    for ending, text in texts.items():
        files.write(stem.with_name(stem.name + ending), text)
    print(f'{"files":14}  {stem}{{{",".join(texts)}}}')


def _file_name(
    config: ml_collections.ConfigDict, folder: str, nets: Sequence[tuple[Member, int]]
) -> str:
    """'digits-test-resize_36-ten_crop_28-step_1000': data, ops and nets."""
    _, *ops = config.data.eval_ops.split('|')
    parts = [config.data.name, config.data.eval_split, *ops]
    for member, step in nets:
        run = 'step' if member.workdir == folder else epath.Path(member.workdir).name
        parts.append(f'{run} {step}')
    name = '-'.join(re.sub(r'\W+', '_', part).strip('_') for part in parts)
    if len(name) > LONGEST_NAME:
        name = f'{name[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}'
    return name
