"""What `benchmark step` times, each in a process of its own.

    python -m alexnet_jax.benchmark.workers WORKER train|forward --config=...

The process reports how long its step took to compile, then runs as many steps as each line on its
standard input asks for. So workers take turns, and each keeps its memory and its threads.
"""

import contextlib
import enum
import io
import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, assert_never

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from etils import epath

from alexnet_jax import cli
from alexnet_jax.benchmark import reference_ops
from alexnet_jax.errors import run_command
from alexnet_jax.evaluation import steps
from alexnet_jax.model import ops, variants
from alexnet_jax.parallel import compilation, malloc, pmap
from alexnet_jax.training import optimizer
from alexnet_jax.training.objective import step_options
from alexnet_jax.training.step import TrainState, create_train_state, make_train_step

TRAIN_SIZE = 1_000_000  # images in an epoch; nothing here trains for one
COMPILING = (
    '/jax/core/compile/jaxpr_trace_duration',
    '/jax/core/compile/jaxpr_to_mlir_module_duration',
    '/jax/core/compile/backend_compile_duration',
)
# Runs that many steps and waits for the last. Returns the seconds to count, if not all of them.
Run = Callable[[int], float | None]


class Task(enum.StrEnum):
    """Whether to train, or to score: from pixels to sums of scores."""

    TRAIN = 'train'
    FORWARD = 'forward'


class Worker(enum.StrEnum):
    """What a process runs. The value is its name on the command line and its key in the JSON."""

    ALEXNET_JAX = 'alexnet_jax'  # the training step, or the evaluation step
    LOOP = 'loop'  # the training loop: the step and everything around it
    REFERENCE = 'reference'  # the same steps on `reference_ops`, with XLA's default options
    TORCH_EAGER = 'torch_eager'  # see `torch_baseline`
    TORCH_TUNED = 'torch_tuned'
    TORCH_COMPILED = 'torch_compiled'
    MATMUL = 'matmul'  # a product of two square matrices on each device: the most they compute

    @property
    def label(self) -> str:
        """The name in tables."""
        return _LABELS.get(self, self.value)


_LABELS = {
    Worker.LOOP: 'the whole loop',
    Worker.REFERENCE: 'reference ops',
    Worker.TORCH_EAGER: 'PyTorch eager',
    Worker.TORCH_TUNED: 'PyTorch tuned',
    Worker.TORCH_COMPILED: 'PyTorch compiled',
}


def make_run(worker: Worker, task: Task, config: ml_collections.ConfigDict) -> Run:
    """Build what a worker runs.

    Args:
      worker: The worker.
      task: Whether it trains or scores. The loop and the matrix product do the same in both.
      config: A recipe; of its data only the image size matters.
    """
    match worker:
        case Worker.ALEXNET_JAX:
            _configure(config)
            return partial(_repeat, _make_step(task, config, ops))
        case Worker.REFERENCE:
            return partial(_repeat, _make_step(task, config, reference_ops))
        case Worker.LOOP:
            _configure(config)
            return partial(_train_in_loop, config)
        case Worker.TORCH_EAGER:
            return _make_torch_run(task, config)
        case Worker.TORCH_TUNED:
            return _make_torch_run(task, config, tuned=True)
        case Worker.TORCH_COMPILED:
            return _make_torch_run(task, config, tuned=True, compiled=True)
        case Worker.MATMUL:
            return partial(_repeat, _make_matmul(config))
        case _:
            assert_never(worker)


def _configure(config: ml_collections.ConfigDict) -> None:
    """Set up the process as a run's, before JAX starts its devices."""
    malloc.configure_malloc()
    compilation.set_xla_flags(config.deterministic)


def make_batch(config: ml_collections.ConfigDict) -> steps.Batch:
    """Return random images, labels and color shifts of the size that a config trains on."""
    rng = np.random.default_rng(0)
    b, size = config.batch_size // config.accum_steps, config.image_size
    return {
        'image': rng.integers(0, 256, (b, size, size, 3), np.uint8),
        'label': rng.integers(0, config.num_classes, b, np.int32),
        'mask': np.ones(b, np.float32),
        'position': np.arange(b, dtype=np.int32),
        'color_shift': rng.normal(0, 10, (b, 3)).astype(np.float32),
        'color_scale': np.ones(b, np.float32),
    }


def _repeat(step: Callable[[], Any], count: int) -> None:
    result = None
    for _ in range(count):
        result = step()
    jax.block_until_ready(result)


def _make_step(
    task: Task, config: ml_collections.ConfigDict, module: ModuleType
) -> Callable[[], Any]:
    """Build the real step, on a batch that comes from the host's memory every time."""
    model = variants.make_model(config, module)
    schedule = optimizer.make_schedule(config, TRAIN_SIZE)
    transform = optimizer.make_optimizer(config, schedule, TRAIN_SIZE)
    with_ema = config.ema_decay > 0
    state = create_train_state(model, transform, config.image_size, config.seed, with_ema)
    data = _InMemory(config)
    if task is Task.FORWARD:
        eval_step = steps.make_eval_step(model, data.mean)
        variables = pmap.replicate(state.variables)
        del state  # scoring needs no velocities
        batches = pmap.ahead(itertools.cycle(data.eval_batches()))
        return lambda: [
            eval_step(variables, batch) for batch in itertools.islice(batches, config.accum_steps)
        ]
    options = step_options(config)
    train_step = make_train_step(model, transform, data.mean, config.seed, options)
    state = options.slices.place(state)
    parts = pmap.ahead(itertools.chain.from_iterable(data.train_batches(0)))
    malloc.trim_heap()  # as the loop does

    def train() -> TrainState:
        nonlocal state
        state = train_step(state, itertools.islice(parts, config.accum_steps))
        return state

    return train


class _InMemory:
    """One batch, again and again: what the loop would receive if data cost nothing."""

    train_size = TRAIN_SIZE

    def __init__(self, config: ml_collections.ConfigDict):
        self.eval_size = config.batch_size
        self.num_classes = config.num_classes
        self.mean = np.full((config.image_size, config.image_size, 3), 127.5, np.float32)
        self.parts = [make_batch(config)] * config.accum_steps

    def load_statistics(self, workdir: str) -> None:
        """Do nothing: the mean is known."""

    def class_counts(self) -> np.ndarray:
        labels = np.concatenate([part['label'] for part in self.parts])
        return np.bincount(labels, minlength=self.num_classes)

    def train_batches(self, start_step: int) -> Iterator[list[steps.Batch]]:
        while True:
            yield self.parts

    def eval_batches(self) -> Iterator[steps.Batch]:
        for part in self.parts:
            yield {key: part[key] for key in ('image', 'label', 'mask')}

    def example_ids(self, step: int) -> list[str]:
        return []


def _train_in_loop(config: ml_collections.ConfigDict, count: int) -> float:
    """Train in a run of its own; return the seconds of `count` steps, after as many to warm up."""
    # These take seconds to import, and the other workers do without.
    from alexnet_jax.run.logger import read_records
    from alexnet_jax.training import loop

    config = config.copy_and_resolve_references()
    config.init_from = None  # the data has no class names to compare with the other run's
    config.epochs = 2 * count * config.batch_size / TRAIN_SIZE
    config.log_every = count
    config.eval_every = config.checkpoint_every = 10**9
    with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stdout(io.StringIO()):
        loop.train_and_evaluate(config, workdir, _InMemory(config))
        records = read_records(epath.Path(workdir) / 'metrics.jsonl')
    last = [record for record in records if record['split'] == 'train'][-1]
    return count * config.batch_size / last['images_per_second']


def _make_matmul(config: ml_collections.ConfigDict) -> Callable[[], Any]:
    """Build the product that every device computes, of its own copy of the matrix."""
    size = matmul_size(jax.default_backend())
    matrix = pmap.replicate(np.ones((size, size), config.dtype))
    precision = variants.PRECISIONS[config.precision]
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    return lambda: product(matrix)


def matmul_size(platform: str) -> int:
    """Return the number of rows n of the matrices; a product is 2 n^3 operations."""
    return 2048 if platform == 'cpu' else 8192


def _make_torch_run(task: Task, config: ml_collections.ConfigDict, **kwargs: bool) -> Run:
    from alexnet_jax.benchmark import torch_baseline

    step = torch_baseline.make_step(config, train=task is Task.TRAIN, **kwargs)
    return partial(torch_baseline.run, step)


def _peak_bytes() -> int:
    """The peak of the accelerator's memory; on a CPU, of this process's."""
    if (torch := sys.modules.get('torch')) and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    in_use = (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use')
    unit = 1 if sys.platform == 'darwin' else 1024
    return in_use or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Serve the worker that the command line names on standard input and output."""
    cli.define_flags(workdir=None)
    _, name, task = cli.parse_flags(sys.argv)
    run = make_run(Worker(name), Task(task), flags.FLAGS.config)
    compiling = []

    def listen(event: str, duration_secs: float, **_) -> None:
        if event in COMPILING:
            compiling.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    run(1)
    print(json.dumps({'compile_seconds': sum(compiling)}), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        seconds = run(int(line)) or time.perf_counter() - began
        print(json.dumps({'seconds': seconds, 'peak_bytes': _peak_bytes()}), flush=True)


if __name__ == '__main__':
    run_command(main)
