"""Keep a backend busy with the trials of a study, and act on how each ends."""

import contextlib
import errno
import math
import os
import signal
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from optuna.trial import Trial

from alexnet_jax import files
from alexnet_jax.config import validate_training
from alexnet_jax.errors import (
    BadInput,
    Diverged,
    Interrupted,
    NoDevice,
    RunError,
    catch_stop_signals,
    shown,
)
from alexnet_jax.sweep import same_data, space, study
from alexnet_jax.sweep.backends import Backend, Handle, Job
from alexnet_jax.sweep.base import AGAIN, Base
from alexnet_jax.sweep.progress import last_error, read_progress
from alexnet_jax.sweep.running import Running

POLL = 0.5  # seconds between looks at the trials
TRANSIENT = (143, 137)  # preemption; a lost node, or out of memory
MAX_STARTS = 3  # in a row that end like this without progress
FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


class Runner:
    """Runs the trials of a study until there are enough.

    Args:
      trials: The study.
      backend: Where trials run.
      folder: The sweep's folder; trial 7 runs in folder/trials/007.
      base: What the trials have in common.
      early_stopping: Whether to stop hopeless trials.
      say: Prints a line.
      show: Called with the running trials, twice a second.
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
        self._recipe = self._folder / 'recipe' / 'config.json'  # at the top it would mean a run
        self._early_stopping = early_stopping
        self._say = say
        self._show = show
        self._waiting: deque[Running] = deque()
        self._running: list[Running] = []
        self._signal: int | None = None
        self._fault = ''  # that the next trial would meet too, so the sweep ends
        self._is_told = False  # whether the trials have been told to stop
        self._wake = threading.Event()

    def run(self) -> None:
        """Run until every trial has ended.

        Raises:
          Interrupted: A signal to stop was received; the trials have saved and ended.
          RunError: The same, because of something that the trials to come would meet too: one could
            not start its accelerator, the disk is full, the saved recipe or the data cannot be
            read, or the recipe or the data have changed.
        """
        self._recipe.parent.mkdir(parents=True, exist_ok=True)
        files.write(self._recipe, self._base.config.to_json(indent=2))
        before = catch_stop_signals(self._receive)
        try:
            self._waiting.extend(map(self._prepare, self._study.unfinished()))
            self._find_jobs()
            while True:
                self._fill()
                self._show(self._running)
                if not self._running:
                    break
                if self._wake.wait(POLL):
                    self._wake.clear()
                    self._stop()
                    self._say('stopping: the trials save and end')
                for running in list(self._running):
                    self._look(running)
        except BaseException:  # no room for the journal, or whoever read the output is gone
            self._abandon()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signal:
            raise Interrupted(f'stopped; {AGAIN}', self._signal)
        if self._fault:
            raise RunError(self._fault)

    @property
    def _is_stopping(self) -> bool:
        return self._signal is not None or self._fault != ''

    def _receive(self, number: int, _) -> None:
        self._signal = self._signal or number
        self._wake.set()

    def _stop(self) -> None:
        """Send SIGTERM to the trials: they save and end; at a later one, they end at once."""
        self._is_told = True
        for running in self._running:
            with contextlib.suppress(Exception):  # one of them must not keep the others
                running.handle.stop()

    def _abandon(self) -> None:
        """Stop the trials and wait until they have ended: their folder may be removed next."""
        self._wake.clear()
        with contextlib.suppress(OSError, SystemExit):  # nobody may be reading
            self._say('an error stops the sweep: the trials save and end')
        if not self._is_told:
            self._stop()
        signals = 0
        while signals < 2 and any(r.handle.poll() is None for r in self._running):
            if self._wake.wait(POLL):  # at the second, leave them: Slurm may not answer
                self._wake.clear()
                self._stop()
                signals += 1

    def _find_jobs(self) -> None:
        """Watch the jobs that a killed sweep left running: a fault must stop them, too."""
        for running in list(self._waiting):
            if handle := self._backend.find(running.job):
                self._waiting.remove(running)
                self._watch(running, handle)
                if running.hopeless:  # the sweep may have been killed before it told the job
                    handle.stop()

    def _watch(self, running: Running, handle: Handle, printed: int = 0) -> None:
        running.handle = handle
        running.printed = 0 if handle.is_found else printed
        running.starts += 1
        running.is_compared = False
        self._running.append(running)

    def _fill(self) -> None:
        """Start trials while there is room."""
        while not self._is_stopping and len(self._running) < self._backend.parallel:
            if self._waiting:
                running = self._waiting.popleft()
            elif trial := self._study.ask():
                running = self._prepare(trial)
            else:
                return
            if running.furthest and self._has_other_data(running):
                return
            if running.hopeless:  # the sweep was killed before this trial had ended
                running.progress = read_progress(running.job.folder, running.config)
                self._finish(running, study.STOPPED_EARLY, 128 + signal.SIGTERM)
                continue
            try:
                # Not all points of a continuous space were validated at the start.
                validate_training(running.config, self._base.devices)
            except BadInput as error:
                self._finish(running, study.FAILED, BadInput.exit_code, str(error))
                continue
            output = running.job.output
            printed = output.stat().st_size if output.exists() else 0
            self._watch(running, self._backend.start(running.job), printed)

    def _prepare(self, trial: Trial) -> Running:
        changes = self._study.settings(trial)
        folder = self._folder / 'trials' / f'{trial.number:03}'
        # Alone, whatever the environment says: on a TPU VM and in a pod of a Job, a trial would
        # look for other processes.
        alone = '--num_processes=1'
        command = (sys.executable, *self._base.command(changes, folder, self._recipe), alone)
        # Two sweeps on a cluster may have folders of the same name.
        name = f'{self._folder.name}-{zlib.crc32(bytes(self._folder)):08x}-{trial.number:03}'
        config = space.apply(self._base.config, changes)
        return Running(
            trial,
            trial.number,
            changes,
            config,
            Job(name, command, folder, Path.cwd()),
            furthest=read_progress(folder, config).furthest,
            hopeless=study.HOPELESS in trial.user_attrs,
        )

    def _look(self, running: Running) -> None:
        """Process what a trial did since the last call."""
        code = running.handle.poll()  # first: once it has ended, all records are there
        now = read_progress(running.job.folder, running.config)
        if now.furthest > running.furthest:
            running.furthest, running.starts = now.furthest, 0
        running.progress = now
        must_compare = code is not None or (now.furthest and not running.is_compared)
        if must_compare and self._has_other_data(running):
            if code is not None:
                self._running.remove(running)  # it is not recorded as ended
            return
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

    def _end_sweep(self, fault: str) -> None:
        """Stop all trials, once, because of something that the next one would meet too."""
        if not self._is_stopping:  # at a second signal, they would end without saving
            self._fault = fault
            self._wake.set()

    def _has_other_data(self, running: Running) -> bool:
        """End the sweep and return True if a trial has read different data from another."""
        others = [*self._running, *self._waiting]
        fault = same_data.find_fault(running, others, self._study.all())
        # A run without a checkpoint may replace its record when it is started again.
        running.is_compared = not fault and bool(running.progress.saved)
        if fault:
            self._end_sweep(fault)
        return bool(fault)

    def _end(self, running: Running, code: int) -> None:
        evals, output = running.progress.evals, running.job.output
        last = last_error(output, running.printed)
        if code == 0 and evals and math.isfinite(evals[-1][self._study.metric]):
            self._finish(running, study.FINISHED, code)
        elif code == 0 and evals:
            reason = f'{self._study.metric} is {evals[-1][self._study.metric]}'
            self._finish(running, study.DIVERGED, code, reason)
        elif running.hopeless:
            self._finish(running, study.STOPPED_EARLY, code)
        elif code == Diverged.exit_code:
            self._finish(running, study.DIVERGED, code, last)
        elif self._is_stopping and code in (*TRANSIENT, BadInput.exit_code):
            return  # it continues with the sweep, or is refused again then
        elif code == NoDevice.exit_code or any(text in last for text in FULL):
            self._end_sweep(f'trial {running.number}: {last}, in {output}; after that, {AGAIN}')
        elif code == BadInput.exit_code:
            self._refuse(running, last)
        elif code in TRANSIENT and running.starts < MAX_STARTS:
            self._say(f'trial {running.number}: exit code {code}; restarting it')
            self._waiting.appendleft(running)
        elif code in TRANSIENT:
            reason = f'exit code {code}, {MAX_STARTS} times in a row without progress'
            self._finish(running, study.FAILED, code, reason)
        else:
            self._finish(running, study.FAILED, code, last)

    def _refuse(self, running: Running, error: str) -> None:
        """Act on a trial that ended as bad input."""
        data = same_data.find_choice(running, self._study.all())
        fault = self._base.find_fault(
            error, running.job.folder, self._recipe, self._study.space, data
        )
        if fault:
            self._end_sweep(f'trial {running.number}: {fault}')
        elif not self._is_stopping:  # else Ctrl-C may have ended the search for the fault, too
            self._finish(running, study.FAILED, BadInput.exit_code, error)

    def _finish(self, running: Running, outcome: str, code: int, reason: str = '') -> None:
        reason = shown(reason)
        evals = running.progress.evals
        self._study.finish(
            running.trial,
            outcome,
            {
                'exit_code': code,
                'reason': reason,
                'scores': evals[-1] if evals else {},
                'best': max((record['top1'] for record in evals), default=None),
                'data': same_data.identify(running.job.folder, running.config),
            },
        )
        score = f'  top-1 {evals[-1]["top1"]:.2%} at step {evals[-1]["step"]:,}' if evals else ''
        line = f'trial {running.number}: {outcome}{score}  {space.describe(running.changes)}'
        self._say(f'{line}  ({reason})' if reason else line)
