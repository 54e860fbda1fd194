"""Signals to stop: the step in flight is finished and saved before the process ends."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from alexnet_jax.errors import LIKE_SIGTERM, Interrupted, catch_stop_signals
from alexnet_jax.parallel import sigterm

T = TypeVar('T')

REPEATED = 2  # seconds


class EvaluationStopped(Exception):
    """A signal arrived during an evaluation."""


class PreemptionHandler:
    """Records SIGINT, and SIGTERM or its equivalents, while the `with` block runs.

    A second SIGINT or SIGTERM exits at once, unless it is a SIGTERM within REPEATED seconds of the
    first: whoever ends all processes of a sweep at once makes the sweep send its own. With several
    processes, all of them stop after the same step, whichever received the signal.

    Attributes:
      number: SIGINT or SIGTERM, whichever arrived; SIGTERM if another process received it.
    """

    def __init__(self):
        self.number = signal.SIGTERM
        self._received, self._first = False, 0.0

    def __enter__(self) -> 'PreemptionHandler':
        has_others = jax.process_count() > 1
        watched = [signal.SIGINT] if has_others else [signal.SIGINT, signal.SIGTERM]
        self._before = catch_stop_signals(self._receive, watched)
        if has_others:
            sigterm.leave_to_jax()  # it notifies the other processes
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if jax.process_count() > 1 and isinstance(error, Interrupted):
            # Of the signals to all processes that stop a run, some come after the stop: JAX keeps
            # SIGTERM.
            for number in LIKE_SIGTERM:
                signal.signal(number, signal.SIG_IGN)
        elif jax.process_count() > 1:
            sigterm.take_back()

    def _receive(self, number: int, _) -> None:
        if self._received:
            if number == signal.SIGTERM and time.monotonic() < self._first + REPEATED:
                return
            os._exit(128 + number)
        self._received, self._first = True, time.monotonic()
        self.number = signal.Signals(number)
        if jax.process_count() > 1:
            signal.raise_signal(signal.SIGTERM)

    def came_before(self, start: int) -> bool:
        """Return whether a signal has arrived before a run continues from step `start`.

        Every process has to ask. Processes agree to stop at one more than the last step that any of
        them has asked JAX about. If none has, that is 1, which a run that continues never reaches.
        """
        if jax.process_count() == 1:
            return self._received
        return any(multihost_utils.reached_preemption_sync_point(step) for step in (1, start))

    def should_stop(self, step: int) -> bool:
        """Return whether to stop after this step. Every process has to ask at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches until a signal arrives.

        With several processes, yield all of them: the others would wait in a collective.

        Raises:
          EvaluationStopped: A signal arrived.
        """
        for batch in batches:
            if self._received and jax.process_count() == 1:
                raise EvaluationStopped
            yield batch
