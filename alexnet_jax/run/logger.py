"""Where metrics go: metrics.jsonl (the record), TensorBoard (a view), trackers, the terminal."""

import contextlib
import datetime
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from etils import epath
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

from alexnet_jax import files
from alexnet_jax.errors import RunError, leave_closed_output, shown
from alexnet_jax.run.trackers import NO_TRACKERS, Trackers


class Log:
    """Writes the records of a run in process 0; does nothing in the others.

    The constructor and the methods that write raise RunError if they cannot.

    Args:
      workdir: The run's workdir.
      start: The step to continue from; records of later steps, which are done again, are dropped.
      total: The number of steps of the whole run.
      batch_size: The number of examples per step.
      train_size: The number of examples per epoch.
      trackers: What else gets the records: first those of earlier starts, where they are missing.
      shows_top5: Whether lines give the top-5 accuracy, which among five classes is always 100%.
    """

    def __init__(
        self,
        workdir: str,
        start: int,
        total: int,
        batch_size: int,
        train_size: int,
        trackers: Trackers = NO_TRACKERS,
        shows_top5: bool = True,
    ):
        self._is_writer = jax.process_index() == 0
        self._total = total
        self._batch_size = batch_size
        self._train_size = train_size
        self._trackers = trackers
        self._shows_top5 = shows_top5
        self._clock: tuple[int, float] | None = None  # step and time where the rate starts
        self._rate = 0.0
        if not self._is_writer:
            return
        self._path = epath.Path(workdir) / 'metrics.jsonl'
        with _named_failure(self._path):
            _cut_back(self._path, start)
            self._file = self._path.open('a')
            self._events = _Events(workdir, start + 1)
            for record in read_records(self._path):
                trackers.log(record['step'], record['split'], _scalars(record))
        self._bar = tqdm(
            total=total,
            initial=start,
            unit='step',
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def tick(self, step: int) -> None:
        """Count a step that was started."""
        if self._clock is None:  # the first, which compiles
            self._clock = (step, time.perf_counter())
        if self._is_writer:
            self._bar.update()

    def restart_clock(self, step: int) -> None:
        """Exclude what came since a step, an evaluation or a save, from images_per_second."""
        if self._clock:
            self._clock = (step, time.perf_counter())

    def train(self, step: int, metrics: dict[str, float], learning_rate: float) -> None:
        """Write a train record: averages over the steps since the previous one."""
        if self._clock and step > self._clock[0]:
            steps, seconds = step - self._clock[0], time.perf_counter() - self._clock[1]
            self._rate = steps * self._batch_size / seconds
        self._clock = (step, time.perf_counter())
        rates = {'images_per_second': self._rate, 'learning_rate': learning_rate}
        self._write(step, 'train', metrics | rates)

    def eval(self, step: int, metrics: dict[str, Any]) -> None:
        """Write an eval record: the scores on the whole split."""
        self._write(step, 'eval', metrics)
        self.restart_clock(step)

    def say(self, line: str) -> None:
        """Print a line above the progress bar; if nothing reads it (`... | head`), stop the run."""
        if not self._is_writer:
            return
        try:
            tqdm.write(shown(line), file=sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            leave_closed_output()
            signal.raise_signal(signal.SIGHUP)  # as if a terminal had closed: the run is saved

    def __enter__(self) -> 'Log':
        return self

    def __exit__(self, *_) -> None:
        if self._is_writer:
            self._bar.close()
            with _named_failure(self._path), contextlib.closing(self._file):
                self._events.close()

    def _write(self, step: int, split: str, values: dict[str, Any]) -> None:
        if not self._is_writer:
            return
        epoch = step * self._batch_size / self._train_size
        record = {'step': step, 'epoch': epoch, 'split': split, **values}
        with _named_failure(self._path):
            self._file.write(json.dumps(record) + '\n')
            self._file.flush()
            if split == 'eval':  # it decides which checkpoints are removed
                os.fsync(self._file.fileno())
            self._events.scalars(step, _scalars(record))
        self._trackers.log(step, split, _scalars(record))
        if split == 'train' and not self._bar.disable:
            self._bar.set_postfix_str(self._scores(record))
        else:
            self.say(self._line(record))

    def _scores(self, record: dict) -> str:
        line = f'loss {record["loss"]:.4f}  top-1 {record["top1"]:6.2%}'
        if self._shows_top5:
            line += f'  top-5 {record["top5"]:6.2%}'
        rate = record['images_per_second']
        return line + (f'  {rate:,.0f} images/s' if rate else '')

    def _line(self, record: dict) -> str:
        step = record['step']
        line = f'step {step:,}/{self._total:,}  epoch {record["epoch"]:.1f}  '
        line += f'{record["split"]:5}  {self._scores(record)}'
        if record['split'] == 'train':
            line += f'  rate {record["learning_rate"]:.2g}'
            if self._rate:
                seconds = round((self._total - step) * self._batch_size / self._rate)
                line += f'  {datetime.timedelta(seconds=seconds)} left'
        if record['bad_images']:
            line += f'  bad images {record["bad_images"]:,}'
        return line


def track(batches: Iterable, count: int) -> Iterable:
    """Return the batches with a progress bar, which process 0 shows if it has a terminal."""
    return tqdm(
        batches,
        'eval',
        count,
        leave=False,
        disable=jax.process_index() > 0 or not sys.stderr.isatty(),
        unit='batch',
        dynamic_ncols=True,
    )


class _Events:
    """A new file of TensorBoard events, which hides those of earlier files from a step on.

    Uses TensorBoard's own record writer: its EventFileWriter writes in a thread, where a full disk
    goes unnoticed, as does tensorboardX's, which also imports PyTorch, if installed, for a second.
    The file name contains the process id because two starts can share a second.
    """

    def __init__(self, workdir: str, first_step: int):
        name = f'events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}'
        self._records = RecordWriter((epath.Path(workdir) / name).open('wb'))
        self._write(file_version='brain.Event:2')
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=first_step, session_log=start)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write scalars, without leaving any in a buffer."""
        scalar = summary_pb2.Summary.Value
        scalars = [scalar(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step=step, summary=summary_pb2.Summary(value=scalars))
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _write(self, **content) -> None:
        event = event_pb2.Event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())


@contextlib.contextmanager
def _named_failure(path: epath.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f'cannot write {path} or the events next to it: {error.strerror or error}; free disk '
            f'space or fix permissions, then run the same command again to continue'
        ) from error


def _scalars(record: dict) -> dict[str, float]:
    """Return what can be drawn, by its tag in TensorBoard and trackers."""
    return {
        f'{record["split"]}/{k}': v
        for k, v in record.items()
        if k not in ('step', 'split') and not isinstance(v, list)
    }


def read_records(path: epath.Path) -> list[dict]:
    """Return the train and eval records of a metrics.jsonl; none if there is no such file.

    Lines that were cut short, damaged or added by hand are left out.
    """
    found = _parse_lines(path) if path.exists() else []
    return [record for record in found if record and record.get('split') in ('train', 'eval')]


def _parse_lines(path: epath.Path) -> list[dict | None]:
    """Return what each line that is not blank holds; None for no record."""
    lines = path.read_bytes().decode(errors='replace').split('\n')
    return [_parse(line) for line in lines if line.strip()]


def _parse(line: str) -> dict | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and type(record.get('step')) is int else None


def _cut_back(path: epath.Path, step: int) -> None:
    """Drop the records after a step, which will be written again, and damaged lines."""
    if not path.exists():
        return
    found = _parse_lines(path)
    if damaged := found[:-1].count(None):  # the last one may have been cut short by a crash
        lines = '1 damaged line' if damaged == 1 else f'{damaged:,} damaged lines'
        note = f'note: {path} had {lines}, now removed; the other records are kept'
        print(shown(note), file=sys.stderr, flush=True)
    files.write(path, ''.join(json.dumps(r) + '\n' for r in found if r and r['step'] <= step))
