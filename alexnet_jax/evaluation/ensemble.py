"""Score one or several nets on a whole split: what `main --mode=eval` does.

Probabilities are averaged over the views that data.eval_ops makes of each image (one center crop,
the paper's ten) and over the nets (the paper's five). Workdirs are only read, so that a run can be
scored while it trains.
"""

import datetime
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import jax
import ml_collections
import numpy as np

from alexnet_jax import files
from alexnet_jax.cloud.store import is_url
from alexnet_jax.errors import BadInput, shown
from alexnet_jax.evaluation import evaluate, score_files, scores
from alexnet_jax.evaluation.class_words import display_names
from alexnet_jax.evaluation.steps import Batch
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.parallel import processes
from alexnet_jax.run import remote, saved, workdir, writable
from alexnet_jax.run.logger import track
from alexnet_jax.saved_config import read_config, take_run

NETWORK_KEYS = ('variant', 'edits', 'num_classes', 'image_size')
COMMON_KEYS = ('num_classes', 'image_size')  # that the nets of an ensemble share


class Member(NamedTuple):
    """A net to score: a run's folder and a checkpoint's step, None for the best."""

    workdir: str
    step: int | None


class Data(Protocol):
    """What scoring needs of a data set: `data.pipeline.Data`, or plain NumPy in tests."""

    eval_size: int

    @property
    def class_names(self) -> Sequence[str]: ...
    def eval_batches(self) -> Iterator[Batch]: ...
    def eval_indices(self, step: int) -> np.ndarray: ...  # int64 [b], of this process's batch
    def eval_name(self, index: int) -> str: ...


def plan(
    config: ml_collections.ConfigDict | None,
    folder: str | None,
    checkpoints: str | None,
    eval_ops: str | None,
) -> tuple[ml_collections.ConfigDict, list[Member]]:
    """Find out what to score and on which data. Only reads.

    Args:
      config: The config with the data and their ops; None for that of the (first) net's run.
      folder: The workdir to write to, and the net's if there is no `checkpoints`.
      checkpoints: 'DIR[@STEP],DIR[@last],...', each DIR the workdir of a run.
      eval_ops: The ops to use in place of the config's data.eval_ops.

    Returns:
      The config of this evaluation, and the nets.

    Raises:
      BadInput: There is no such run or checkpoint, or the networks do not fit together.
      RunError: A run has no checkpoints.
    """
    if not folder:
        raise BadInput("pass --workdir=DIR, the run's folder")
    writable.check_writable(remote.local_copy(folder, weights=False))
    members = _parse_members(checkpoints) if checkpoints else [Member(folder, None)]
    members = [Member(remote.local_copy(*member), member.step) for member in members]
    configs = [_check_member(member) for member in members]
    scored = configs[0] if config is None else config
    for member, other in zip(members, configs, strict=True):
        _check_network(member, other, scored, COMMON_KEYS if checkpoints else NETWORK_KEYS)
        if not _same_classes(member, workdir.read_classes(members[0].workdir)):
            raise BadInput(
                f'{member.workdir} and {members[0].workdir} were trained on different classes; '
                f'score them separately'
            )
    if eval_ops is not None:
        scored.data.eval_ops = eval_ops
    # These concern training: a batch here is one of the parts of a step there, nothing is mixed,
    # and each device has all the weights.
    scored.batch_size = max(1, scored.batch_size // scored.accum_steps)
    scored.accum_steps = scored.ghost_batch_size = 1
    scored.mixup_alpha = scored.cutmix_alpha = 0.0
    scored.parallelism = 'data'
    return scored, members


def _parse_members(checkpoints: str | None) -> list[Member]:
    members = []
    while checkpoints is not None:
        text, checkpoints = take_run(checkpoints)
        members.append(parse_member(text))
    return members


def parse_member(text: str) -> Member:
    """Read 'DIR@STEP', 'DIR@last' or 'DIR', the run's best checkpoint.

    A run's folder may itself have a name that looks like one of the first two.

    Raises:
      BadInput: It is empty.
    """
    if not text:
        raise BadInput('--checkpoints names no folder; it must be DIR[@STEP],DIR[@last],...')
    match = re.fullmatch(r'(.+)@(\d+|last)', text)
    if not match or (not is_url(text) and workdir.has_run(text)):
        return Member(text, None)
    folder, step = match.groups()
    if step != 'last':
        return Member(folder, int(step))
    newest = max(remote.find_steps(folder), default=None)  # without any, loading says so
    return Member(folder, newest)


def _check_member(member: Member) -> ml_collections.ConfigDict:
    """Return the config of a member's run, whose checkpoint exists."""
    config = read_config(member.workdir)
    saved.find_step(*member)
    return config


def _same_classes(member: Member, names: Sequence[str]) -> bool:
    """Return whether a member's classes are these, perhaps in another order.

    A network that was trained elsewhere has its own order; a folder's classes are sorted.
    """
    return sorted(workdir.read_classes(member.workdir)) == sorted(names)


def _check_network(
    member: Member,
    found: ml_collections.ConfigDict,
    config: ml_collections.ConfigDict,
    keys: Sequence[str],
) -> None:
    for key in keys:
        if found[key] != config[key]:
            hint = "leave out --config to use the run's config"
            if keys == COMMON_KEYS:
                hint = f'all nets of an ensemble must have the same {" and ".join(keys)}'
            raise BadInput(
                f'the network in {member.workdir} has {key}={found[key]!r}, but this evaluation '
                f'has {config[key]!r}; {hint}'
            )


def fit_batch(config: ml_collections.ConfigDict, devices: int) -> None:
    """Set the batch size such that all views together take no more memory than training does.

    It does not change the scores. With the course net on a CPU, 128 images take 0.8 GiB, weights
    included, their ten crops 4.0 and ten crops of 12 images 0.8, at the same speed.

    Args:
      config: The evaluation's config.
      devices: The number of accelerators over all hosts.

    Raises:
      BadInput: The ops are malformed.
    """
    from alexnet_jax.data.ops.chain import parse  # imports TensorFlow, which takes seconds

    views = parse(config.data.eval_ops).views
    config.batch_size = devices * max(1, config.batch_size // (devices * views))


def score(
    config: ml_collections.ConfigDict, folder: str, data: Data, members: Sequence[Member]
) -> None:
    """Score every example once; print a table and write files to `folder/eval`.

    Args:
      config: The evaluation's config, from `plan`.
      folder: The workdir.
      data: The data set that the config names.
      members: The nets, from `plan`.

    Raises:
      BadInput: The data has different classes from those the nets were trained on.
      RunError: A checkpoint or an image is damaged.
    """
    names = list(data.class_names)
    if not _same_classes(members[0], names):
        raise BadInput(
            f'{members[0].workdir} was trained on different classes from those that '
            f'{config.data.name} has now; use the data it was trained on'
        )
    if jax.process_count() > 1:  # a run may still train: all load the checkpoint that is best now
        members = [_as_process_0(member) for member in members]
    nets = [TrainedNet.load(*member, config.dtype, config.precision) for member in members]
    orders = [_outputs(net, names) for net in nets]
    tally, views = scores.Tally.of(config.num_classes), 1
    guesses = scores.Guesses.of(data.eval_size)
    batches = track(data.eval_batches(), math.ceil(data.eval_size / config.batch_size))
    for step, batch in enumerate(batches):
        votes = jax.device_get([net.predict_step(batch['image']) for net in nets])
        votes = [vote[:, order] for vote, order in zip(votes, orders, strict=True)]
        log_probs = scores.average(votes)
        tally.add(log_probs, batch['label'], batch['mask'])
        guesses.add(data.eval_indices(step), log_probs, batch['label'], batch['mask'])
        views = math.prod(batch['image'].shape[1:-3])
    tally, guesses = tally.over_processes(), guesses.over_processes()
    figures = tally.figures()
    evaluate.check_complete(figures, data.eval_size)
    if jax.process_index() == 0:
        shown = display_names(names)
        texts = {
            '.per_class.csv': scores.per_class_csv(tally, names, shown),
            '.confusion.csv': scores.confusion_csv(tally, shown),
            '.wrong.csv': guesses.wrong_csv(shown, data.eval_name),
        }
        _report(config, folder, tally, shown, views, nets, texts)


def _outputs(net: TrainedNet, names: Sequence[str]) -> list[int]:
    """Return the outputs of a net in the label order of the data, those without a class last."""
    order = list(range(net.config.num_classes))
    if net.class_names != names:
        order[: len(names)] = [net.class_names.index(name) for name in names]
    return order


def _as_process_0(member: Member) -> Member:
    """Return the checkpoint that is process 0's choice."""
    step = processes.of_process_0(saved.find_step(*member))
    folder = member.workdir
    if step not in saved.find_steps(folder):  # the copy of a bucket is older or newer here
        folder = remote.local_copy(shown(folder), step)
    return Member(folder, step)


def _report(
    config: ml_collections.ConfigDict,
    folder: str,
    tally: scores.Tally,
    names: Sequence[str],
    views: int,
    nets: Sequence[TrainedNet],
    texts: dict[str, str],
) -> None:
    """Print the table, then write the files: `texts` holds their contents by file ending."""
    rows = [('net', f'{net.workdir}, step {net.step:,}') for net in nets]
    rows.append(('data', f'{config.data.name}, {config.data.eval_split}'))
    each = f'{views:,} view{"s" if views > 1 else ""} of each image'
    rows.append(('ops', f'{config.data.eval_ops}  ({each})'))
    for what, figure in [*rows, *scores.table(tally, names)]:
        print(shown(f'{what:14}  {figure}'), flush=True)

    record = {
        **tally.figures(),
        'views': views,
        'members': [
            {
                'workdir': shown(net.workdir),
                'step': net.step,
                'variant': net.config.variant,
                'edits': list(net.config.edits),
            }
            for net in nets
        ],
        'data': config.data.name,
        'split': config.data.eval_split,
        'ops': config.data.eval_ops,
        'evaluated': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'command': sys.orig_argv,
        'config': json.loads(config.to_json()),
    }
    texts = {
        **texts,
        '.json': json.dumps(record, indent=2) + '\n',  # last: it shows that the others are there
    }
    stem = score_files.stem_of(config, folder, nets)
    stem.parent.mkdir(parents=True, exist_ok=True)
    for ending, text in texts.items():
        files.write(stem.with_name(stem.name + ending), text)
    print(shown(f'{"files":14}  {stem}{{{",".join(texts)}}}'))
