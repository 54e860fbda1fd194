"""A trial that is under way."""

import dataclasses

import ml_collections
from optuna.trial import Trial

from alexnet_jax.sweep import space
from alexnet_jax.sweep.backends import Handle, Job
from alexnet_jax.sweep.progress import NO_PROGRESS, Progress


@dataclasses.dataclass(eq=False)
class Running:
    """A trial that is under way.

    Attributes:
      trial: The trial in the study.
      number: Its number.
      changes: The keys that vary, with this trial's values.
      config: The config that results.
      job: What runs.
      handle: The job, once it is started.
      progress: How far it has come.
      furthest: The highest step that it ever reached.
      starts: The number of starts since it last made progress.
      printed: The size of its output when it was last started.
      hopeless: Whether it was asked to stop early.
      is_compared: Whether its data have been compared with those of the others since that start.
    """

    trial: Trial
    number: int
    changes: space.Settings
    config: ml_collections.ConfigDict
    job: Job
    handle: Handle = dataclasses.field(init=False, repr=False)
    progress: Progress = NO_PROGRESS
    furthest: int = 0
    starts: int = 0
    printed: int = 0
    hopeless: bool = False
    is_compared: bool = False

    @property
    def state(self) -> str:
        """The state that the table shows."""
        if self.hopeless:
            return 'stopping'
        if self.progress.step:
            return 'running'
        return 'starting' if self.job.output.exists() else 'queued'
