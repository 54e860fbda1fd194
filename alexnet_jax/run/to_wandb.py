"""Weights & Biases as a tracker. Its variables apply: WANDB_PROJECT, WANDB_MODE, WANDB_DIR, ..."""

from pathlib import Path

import ml_collections

FINISH = 120  # seconds for what is to be uploaded at the end; by default it is waited for forever


class WandbTracker:
    """A W&B run; see `trackers.Tracker`."""

    keeps = False  # a kill -9 loses what its service has not written: 22 records in a trial

    def __init__(self, identity: str | None, title: str, config: ml_collections.ConfigDict):
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(
            id=identity,
            resume='allow',
            name=None if identity else title,  # it may have been renamed since
            config=config.to_dict(),
            allow_val_change=True,
            settings=wandb.Settings(
                silent=True, console='off', finish_timeout=FINISH, finish_timeout_raises=True
            ),
        )
        self.id = self._run.id
        self.row = self._run.starting_step - 1  # -1 if it is new, or offline
        if self._run.offline:
            self.place = f'offline; upload with: wandb sync {Path(self._run.dir).parent}'
        else:
            self.place = str(self._run.url)
        self._run.define_metric('step', hidden=True)
        self._run.define_metric('*', step_metric='step')

    def log(self, row: int, step: int, values: dict[str, float]) -> None:
        # Left to itself W&B would number the rows of a run that is resumed offline from 0 again.
        self._run.log({'step': step, **values}, step=row, commit=True)

    def finish(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)
