"""Weights & Biases as a tracker. Its variables apply: WANDB_PROJECT, WANDB_MODE, WANDB_DIR, ..."""

from pathlib import Path

import ml_collections

FINISH = 120  # seconds for what is still to be uploaded at the end; W&B would wait forever


class WandbTracker:
    """A W&B run; see `trackers.Tracker`."""

    def __init__(self, identity: str | None, title: str, config: ml_collections.ConfigDict):
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(
            id=identity,
            resume='allow',
            name=None if identity else title,  # it may have been renamed since
            config=config.to_dict(),
            allow_val_change=True,
            settings=wandb.Settings(silent=True, console='off', finish_timeout=FINISH),
        )
        self.id = self._run.id
        if self._run.offline:
            self.place = f'offline; upload with: wandb sync {Path(self._run.dir).parent}'
        else:
            self.place = str(self._run.url)
        self._run.define_metric('step', hidden=True)
        self._run.define_metric('*', step_metric='step')

    def log(self, row: int, step: int, values: dict[str, float]) -> None:
        # W&B ignores a row that it has. It would number those of a resumed run offline from 0.
        self._run.log({'step': step, **values}, step=row, commit=True)

    def finish(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)
