"""Checkpoints: saved by Orbax in the background, hashed, verified before they are used.

Orbax restores a flipped byte without an error and accepts an empty folder as the newest step. So
every checkpoint has a manifest of the SHA-256 hashes of its files, which is written last. A
checkpoint that does not match its manifest is quarantined, and the newest valid one is used. A
checkpoint that cannot be read stays where it is, and the run ends with an error. What is left of
one that was being deleted is deleted.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization
from orbax.checkpoint.checkpoint_managers import preservation_policy

from alexnet_jax import files
from alexnet_jax.errors import RunError, one_line
from alexnet_jax.parallel import processes
from alexnet_jax.run import manifest, saved

KEEP_NEWEST = 3
OWN_COPY = '.copy'  # in a workdir that this process does not share with process 0


class Checkpoints:
    """The checkpoints of a run, in `workdir/checkpoints/<step>`.

    The newest three are kept, and the one with the best evaluation. A step is saved before it is
    evaluated; its scores are in metrics.jsonl.

    Every process makes one of these and calls each method at the same step; process 0 writes.

    Args:
      workdir: The run's workdir.

    Attributes:
      quarantined: A line for each checkpoint that was found to be corrupt.
      scores: Evaluation records by step. Add to it once a record is on disk: the next save removes
        the checkpoint that was the best.

    Raises:
      RunError: There are checkpoints, and none is valid; or one of them cannot be read.
    """

    def __init__(self, workdir: str):
        self._folder = saved.folder_of(workdir)
        self._saving: int | None = None
        self.quarantined: list[str] = []
        if jax.process_index() == 0 or (self._folder.parent / OWN_COPY).exists():
            self.quarantined = _sort_out(workdir)
        processes.wait_for_all('checkpoints verified')
        if self.quarantined and not saved.find_steps(workdir):
            raise RunError(
                f'no valid checkpoint in {workdir}: {"; ".join(self.quarantined)}; '
                f'run the same command again to start over'
            )
        newest = max(saved.find_steps(workdir), default=0)
        _check_agreement(workdir, newest)
        # Later steps are done again, and process 0 may be dropping their records already: every
        # process has to rank the same scores.
        found = saved.read_scores(workdir)
        self.scores = {step: record for step, record in found.items() if step <= newest}
        with _named_failure('checkpoints could not be opened', self._folder):
            self._manager = self._open_manager()

    def _open_manager(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                create=True,
                cleanup_tmp_directories=True,  # of saves that were cut short
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [preservation_policy.LatestN(KEEP_NEWEST), _KeepBest(self.scores)]
                ),
                enable_async_checkpointing=True,
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=self._write_manifest,
                    # Else threads wait 300 s for a folder that could not be made.
                    create_directories_asynchronously=False,
                ),
            ),
        )

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the checkpoint with the best score, the newest of several, or None."""
        return saved.best_of(self._manager.all_steps(), self.scores)

    def save(self, step: int, state: Any) -> None:
        """Copy the state to the host and write it in the background.

        Args:
          step: The number of steps done.
          state: A pytree of arrays.

        Raises:
          RunError: This save or the one before failed.
        """
        with _named_failure('checkpoint could not be saved', self._folder):
            self._manager.wait_until_finished()
            self._saving = step
            host = serialization.to_state_dict(jax.tree.map(np.asarray, state))
            self._manager.save(step, args=ocp.args.StandardSave(host))

    def restore(self, template: Any) -> Any:
        """Read the newest checkpoint into host arrays.

        Args:
          template: A state with the expected shapes and dtypes.

        Raises:
          RunError: The shapes or dtypes of the checkpoint differ from the template's.
        """
        folder = self._folder / str(self.newest)
        try:
            # A part that came later is missing where it was off, as it is in the template.
            parts = serialization.to_state_dict(template).items()
            absent = {name: value for name, value in parts if isinstance(value, dict) and not value}
            state = serialization.from_state_dict(template, absent | _read(folder))
        except (ValueError, KeyError) as error:
            raise RunError(f'checkpoint {folder} belongs to another network: {error}') from error
        expected, _ = jax.tree_util.tree_flatten_with_path(template)
        for (path, want), have in zip(expected, jax.tree.leaves(state), strict=True):
            if (want.shape, want.dtype) != (have.shape, have.dtype):
                raise RunError(
                    f'checkpoint {folder}: {jax.tree_util.keystr(path)} is {have.dtype}'
                    f'{have.shape}, the network has {want.dtype}{want.shape}'
                )
        return state

    def wait(self) -> None:
        """Wait until everything saved is on disk."""
        with _named_failure('checkpoint could not be saved', self._folder):
            self._manager.wait_until_finished()

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, _, error: BaseException | None, __) -> None:
        """Finish what is being written, unless that would wait for processes that wait for us."""
        if processes.fails_alone(error):
            return
        with _named_failure('checkpoint could not be saved', self._folder):
            self._manager.close()

    def _write_manifest(self) -> None:
        """Called when Orbax has written its files and before it gives the folder its name."""
        if jax.process_index() == 0:
            # A run that continues from this checkpoint does not write the records before it again.
            if (records := self._folder.parent / 'metrics.jsonl').exists():
                files.sync(records)
            (folder,) = self._folder.glob(f'{self._saving}.orbax-checkpoint-tmp*')
            manifest.write(folder)


def load_variables(workdir: str, step: int) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return the verified `params` and `batch_stats` of a checkpoint: arrays by layer and name.

    Of a run with `ema_decay` these are the averages.

    Raises:
      RunError: It is corrupt, or cannot be read.
    """
    folder = saved.folder_of(workdir) / str(step)
    _check(folder)
    found = _read(folder)
    found = found.get('ema') or found
    return {name: found.get(name) or {} for name in ('params', 'batch_stats')}


def check_weights(workdir: str) -> None:
    """Raise what `load_variables` of the best checkpoint would, without loading its arrays."""
    _check(saved.folder_of(workdir) / str(saved.find_step(workdir)))


def _check(folder: epath.Path) -> None:
    if reason := manifest.find_corruption(folder):
        raise RunError(
            f'checkpoint {folder} is corrupt ({reason}); remove it and continue training'
        )


def _read(folder: epath.Path) -> dict:
    with _named_failure('checkpoint could not be read', folder), ocp.StandardCheckpointer() as c:
        return c.restore(folder / 'default')


def _sort_out(workdir: str) -> list[str]:
    """Quarantine corrupt checkpoints; return a line for each. Delete what a deletion left."""
    folder, steps = saved.folder_of(workdir), saved.find_steps(workdir)
    best = saved.best_of(steps, saved.read_scores(workdir))
    lines, valid = [], 0
    for step in steps:  # all of them: the best may be an older one
        path = folder / str(step)
        if not (reason := manifest.find_corruption(path)):
            valid += 1
        elif valid >= KEEP_NEWEST and step != best and _was_being_deleted(path):
            path.rmtree()
        else:
            lines.append(_quarantine(path, reason))
    return lines


def _was_being_deleted(folder: epath.Path) -> bool:
    """Return whether a checkpoint looks as if Orbax had been killed while deleting it.

    Where it has four cores or more, it deletes the files, those at the top first, up to 0.1 s
    before the folders. If only the manifest is missing, that is damage.
    """
    if os.path.islink(folder) or not os.path.isdir(folder):
        return False
    return not {manifest.MANIFEST, manifest.METADATA} & set(os.listdir(folder))


def _quarantine(folder: epath.Path, reason: str) -> str:
    """Move a corrupt checkpoint to `<workdir>/corrupt/<step>`; return a line that reports it."""
    target = folder.parent.parent / 'corrupt' / folder.name
    target.parent.mkdir(exist_ok=True)
    number = 1
    while target.exists():
        target = target.with_name(f'{folder.name}-{(number := number + 1)}')
    folder.rename(target)
    return f'checkpoint {folder} is corrupt ({reason}); moved to {target}'


@dataclasses.dataclass
class _KeepBest(preservation_policy.PreservationPolicy):
    """Preserve the checkpoint with the best score, in addition to what other policies preserve."""

    scores: Mapping[int, Mapping[str, float]]  # by step; it grows

    def should_preserve(
        self,
        checkpoints: Sequence[preservation_policy.PolicyCheckpointInfo],
        *,
        context: preservation_policy.PreservationContext,
    ) -> Sequence[bool]:
        best = saved.best_of([info.step for info in checkpoints], self.scores)
        return [info.step == best for info in checkpoints]


def _check_agreement(workdir: str, newest: int) -> None:
    """Refuse to continue from another step than process 0 does."""
    if jax.process_count() == 1:
        return
    expected = processes.of_process_0(newest)
    if newest != expected:
        raise RunError(
            f'the newest checkpoint in {workdir} is of step {newest} for this process, but of step '
            f'{expected} for process 0; run the same command again'
        )


@contextlib.contextmanager
def _named_failure(what: str, folder: epath.Path) -> Iterator[None]:
    """Orbax raises many kinds of errors: turn each into one line."""
    try:
        yield
    except Exception as error:
        reason = one_line(error)
        if cause := re.search(r'([^:]+: [^:[]+) \[os_error_code=', reason):
            reason = cause[1].strip()  # TensorStore puts it after a page of its own names
        raise RunError(f'{what}: {folder}: {reason[:300]}') from error
