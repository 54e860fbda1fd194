"""Keeps a backend filled with the trials of a study, and acts on how each ends."""

import dataclasses
import math
import signal
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_collections
from optuna.trial import Trial

from alexnet_jax.config import validate
from alexnet_jax.errors import BadInput, Diverged, Interrupted
from alexnet_jax.sweep import space, study
from alexnet_jax.sweep.backends import Backend, Handle, Job
from alexnet_jax.sweep.progress import NO_PROGRESS, Progress, last_error, read_progress

TRAINER = ('-m', 'alexnet_jax.main')
POLL = 0.5  # seconds between looks at the trials
CAN_PASS = (143, 137)  # preemption; a lost node, or not enough memory
MAX_STARTS = 3  # in a row that end so without a step further


@dataclasses.dataclass
class Running:
    """A trial that is under way.

    Attributes:
      number: of the trial.
      changes: the keys that vary, with its values.
      furthest: step that it has ever reached.
      starts: since it last got further.
      hopeless: whether it was told to stop for that.
    """

    trial: Trial
    number: int
    changes: space.Settings
    config: ml_collections.ConfigDict
    job: Job
    handle: Handle | None = None
    progress: Progress = NO_PROGRESS
    furthest: int = 0
    starts: int = 0
    hopeless: bool = False

    @property
    def state(self) -> str:
        """As the table shows it."""
        if self.hopeless:
            return 'stopping'
        if self.progress.step:
            return 'running'
        return 'starting' if self.job.output.exists() else 'queued'


@dataclasses.dataclass(frozen=True)
class Base:
    """What the trials of a sweep have in common.

    Attributes:
      flag: '--config=configs/NAME.py'.
      recipe: the config that this gives.
      config: the same with the overrides of the sweep's command line.
      devices: accelerators of a trial.
    """

    flag: str
    recipe: ml_collections.ConfigDict
    config: ml_collections.ConfigDict
    devices: int

    def command(self, changes: space.Settings, workdir: Path) -> tuple[str, ...]:
        """Runs the recipe with some of its keys changed; without the program."""
        flags = space.overrides(space.apply(self.config, changes), self.recipe)
        return (*TRAINER, self.flag, *flags, f'--workdir={workdir}')


class Runner:
    """Runs the trials of a study until there are enough.

    Args:
      trials: the study.
      backend: where they run.
      folder: of the sweep; trial n runs in folder/trials/n.
      base: what the trials start from.
      early_stopping: whether hopeless trials are stopped.
      say: prints a line.
      show: called with the running trials, often.
    """

    def __init__(
        self,
        trials: study.Study,
        backend: Backend,
        folder: Path,
        base: Base,
        early_stopping: bool,
        say: Callable[[str], None],
        show: Callable[[Sequence[Running]], None],
    ):
        self._study = trials
        self._backend = backend
        self._folder = folder.absolute()
        self._base = base
        self._early_stopping = early_stopping
        self._say = say
        self._show = show
        self._waiting: deque[Running] = deque()
        self._running: list[Running] = []
        self._signal: int | None = None
        self._wake = threading.Event()

    def run(self) -> None:
        """Until every trial has ended.

        Raises:
          Interrupted: SIGINT or SIGTERM came; the trials have saved and ended.
        """
        before = {n: signal.signal(n, self._receive) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._waiting.extend(map(self._prepare, self._study.unfinished()))
            while True:
                self._fill()
                self._show(self._running)
                if not self._running:
                    break
                if self._wake.wait(POLL):
                    self._wake.clear()
                    self._stop()
                for running in list(self._running):
                    self._look(running)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signal:
            raise Interrupted('stopped; the same command continues with what is left', self._signal)

    def _receive(self, number: int, _) -> None:
        self._signal = self._signal or number
        self._wake.set()

    def _stop(self) -> None:
        """Tell the trials; told twice, they end without saving."""
        self._say('stopping: the trials save and end')
        for running in self._running:
            running.handle.stop()

    def _fill(self) -> None:
        """Start what can be started."""
        while self._signal is None and len(self._running) < self._backend.parallel:
            if self._waiting:
                running = self._waiting.popleft()
            elif trial := self._study.ask():
                running = self._prepare(trial)
            else:
                return
            if running.hopeless:  # and the sweep was killed before it had ended
                running.progress = read_progress(running.job.folder, running.config)
                self._finish(running, study.STOPPED_EARLY, 128 + signal.SIGTERM)
                continue
            try:
                # A point of a continuous space was not seen before.
                validate(running.config, self._base.devices)
            except BadInput as error:
                self._finish(running, study.FAILED, BadInput.exit_code, str(error))
                continue
            running.starts += 1
            running.handle = self._backend.start(running.job)
            self._running.append(running)

    def _prepare(self, trial: Trial) -> Running:
        changes = self._study.settings(trial)
        folder = self._folder / 'trials' / f'{trial.number:03}'
        command = (sys.executable, *self._base.command(changes, folder))
        # Two sweeps on a cluster may have folders of one name.
        name = f'{self._folder.name}-{zlib.crc32(bytes(self._folder)):08x}-{trial.number:03}'
        return Running(
            trial,
            trial.number,
            changes,
            space.apply(self._base.config, changes),
            Job(name, command, folder, Path.cwd()),
            hopeless=study.HOPELESS in trial.user_attrs,
        )

    def _look(self, running: Running) -> None:
        """Take note of what a trial did since the last look."""
        code = running.handle.poll()  # first, so that all records are there when it has ended
        now = read_progress(running.job.folder, running.config)
        if now.step > running.furthest:
            running.furthest, running.starts = now.step, 1
        running.progress = now
        for record in now.evals:
            percent = round(100 * record['step'] / now.total)
            hopeless = self._study.report(running.trial, percent, record)
            if hopeless and self._early_stopping and code is None and not running.hopeless:
                running.hopeless = True
                running.trial.set_user_attr(study.HOPELESS, True)
                running.handle.stop()
        if code is not None:
            self._running.remove(running)
            self._end(running, code)

    def _end(self, running: Running, code: int) -> None:
        evals = running.progress.evals
        if code == 0 and evals and math.isfinite(evals[-1][self._study.metric]):
            self._finish(running, study.FINISHED, code)
        elif code == 0 and evals:
            reason = f'{self._study.metric} is {evals[-1][self._study.metric]}'
            self._finish(running, study.DIVERGED, code, reason)
        elif running.hopeless:
            self._finish(running, study.STOPPED_EARLY, code)
        elif code == Diverged.exit_code:
            self._finish(running, study.DIVERGED, code, last_error(running.job.output))
        elif self._signal is not None and code in CAN_PASS:
            return  # it continues when the sweep does
        elif code in CAN_PASS and running.starts < MAX_STARTS:
            self._say(f'trial {running.number}: ended by exit code {code}; starting it again')
            self._waiting.appendleft(running)
        elif code in CAN_PASS:
            reason = f'ended by exit code {code}, {MAX_STARTS} times without a step further'
            self._finish(running, study.FAILED, code, reason)
        else:
            self._finish(running, study.FAILED, code, last_error(running.job.output))

    def _finish(self, running: Running, outcome: str, code: int, reason: str = '') -> None:
        evals = running.progress.evals
        self._study.finish(
            running.trial,
            outcome,
            {
                'exit_code': code,
                'reason': reason,
                'scores': evals[-1] if evals else {},
                'best': max((record['top1'] for record in evals), default=None),
            },
        )
        score = f'  top-1 {evals[-1]["top1"]:.2%} at step {evals[-1]["step"]:,}' if evals else ''
        line = f'trial {running.number}: {outcome}{score}  {space.describe(running.changes)}'
        self._say(f'{line}  ({reason})' if reason else line)
