"""What checkpoints cost the training loop: `python -m alexnet_jax.benchmark save`."""

import contextlib
import io
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator

import ml_collections

from alexnet_jax.evaluation import steps
from alexnet_jax.training import loop

EVERY = 100  # steps of a stretch
LEAD = 10  # steps of a stretch that come before its save


class _Timed:
    """Data that note when the loop asks for the first batch of each stretch."""

    def __init__(self, data: loop.Data, parts: int, tell: Callable[[int], None]):
        self.began: list[float] = []
        self._data, self._parts, self._tell = data, parts, tell

    def __getattr__(self, name: str):
        return getattr(self._data, name)

    def train_batches(self, start_step: int) -> Iterator[steps.Batch]:
        for i, batch in enumerate(self._data.train_batches(start_step)):
            if (i + LEAD * self._parts) % (EVERY * self._parts) == 0:
                self._tell(len(self.began))
                self.began.append(time.perf_counter())
            yield batch


def measure(
    config: ml_collections.ConfigDict,
    data: loop.Data,
    repeats: int,
    progress: Callable[[str], None],
) -> dict[str, list[float]]:
    """Train, with a checkpoint in every other stretch of `EVERY` steps.

    Both kinds of stretch are of one run and take turns, so that what differs is the save: copying
    the state, and the writing and hashing that goes on beside the next steps.

    Args:
      config: a recipe.
      data: to train on; they are scored once, at the end.
      repeats: pairs of stretches; a pair more comes first, to warm up.
      progress: is told what goes on.

    Returns:
      Seconds of the stretches, `without` and `with` a save: `repeats` entries each.
    """
    timed = _Timed(
        data, config.accum_steps, lambda n: progress(f'save: stretch {n} of {2 * repeats + 2}')
    )
    total = EVERY * (2 * repeats + 3)
    config = ml_collections.ConfigDict(config)
    config.epochs = total * config.batch_size / data.train_size
    config.log_every, config.eval_every, config.checkpoint_every = EVERY, total, 2 * EVERY
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        loop.train_and_evaluate(config, folder, timed)
    seconds = [end - began for began, end in itertools.pairwise(timed.began)]
    return {'without': seconds[2::2], 'with': seconds[3::2]}
