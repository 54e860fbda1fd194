"""What `benchmark step` times, each in a process of its own.

    python -m alexnet_jax.benchmark.workers NAME train|forward --config=...

Such a process says how long it took to compile, and then runs as many steps as each line on its
standard input asks for. So contenders take turns, and each keeps its memory and its threads.
"""

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from etils import epath

from alexnet_jax import cli
from alexnet_jax.benchmark import reference_ops
from alexnet_jax.errors import RunError, run_command
from alexnet_jax.evaluation import steps
from alexnet_jax.model import ops, variants
from alexnet_jax.parallel import malloc, pmap
from alexnet_jax.training import optimizer
from alexnet_jax.training.step import create_train_state, make_train_step

TRAIN_SIZE = 1_000_000  # images of an epoch; nothing here trains for one
COMPILING = (
    '/jax/core/compile/jaxpr_trace_duration',
    '/jax/core/compile/jaxpr_to_mlir_module_duration',
    '/jax/core/compile/backend_compile_duration',
)
# Runs so many steps and waits for the last; may return the seconds that count.
Run = Callable[[int], float | None]


class Contender:
    """A process that runs steps when it is told to.

    Attributes:
      seconds: of a step, one entry a turn.
      compile_seconds: of its step.
      peak_gib: memory, after the last turn.
    """

    def __init__(self, name: str, task: str, options: Sequence[str], cache: str):
        self.name = name
        self.seconds: list[float] = []
        self.peak_gib = 0.0
        environ = os.environ | {
            'JAX_COMPILATION_CACHE_DIR': cache,
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
            'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',  # several processes share a GPU
        }
        if name == 'PyTorch tuned':
            from alexnet_jax.benchmark import torch_baseline

            environ |= torch_baseline.ENVIRON
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'alexnet_jax.benchmark.workers', name, task, *options],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.compile_seconds = self._answer()['compile_seconds']
        self._count = 1
        took = self._run()
        self._count = max(1, round(flags.FLAGS.seconds / took))

    def take_turn(self) -> None:
        """Run for `--seconds`."""
        self.seconds.append(self._run() / self._count)

    def _run(self) -> float:
        with contextlib.suppress(BrokenPipeError):  # ended since its last turn: no answer
            self._process.stdin.write(f'{self._count}\n')
            self._process.stdin.flush()
        answer = self._answer()
        self.peak_gib = answer['peak_bytes'] / 2**30
        return answer['seconds']

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self.__exit__()
            raise RunError(f'the process of {self.name} ended: its error is above')
        return json.loads(line)

    def __enter__(self) -> 'Contender':
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(BrokenPipeError):  # close() writes what is left
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def make(name: str, task: str, config: ml_collections.ConfigDict) -> Run:
    """Build a contender.

    Args:
      name: 'alexnet_jax'; 'plain JAX', which has the operations of `plain` and XLA's defaults;
        'the loop', training with all that it does beside the step; 'matmul', the machine's limit;
        'PyTorch eager', 'PyTorch tuned', 'PyTorch compiled'.
      task: 'train' or 'forward'.
      config: a recipe; of its data only the image size matters.
    """
    if name.startswith('PyTorch'):
        return _torch(name.removeprefix('PyTorch '), task, config)
    if name == 'matmul':
        return _matmul(config)
    if name == 'plain JAX':
        pass
        for function in reference_ops.FUNCTIONS:
            setattr(ops, function.__name__, function)
    else:
        malloc.configure_malloc()
    if name == 'the loop':
        return lambda count: _train_in_loop(config, count)
    return _train(config) if task == 'train' else _forward(config)


def make_batch(config: ml_collections.ConfigDict) -> steps.Batch:
    """Random images, labels and color shifts of the size that a config trains on."""
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


def _train(config: ml_collections.ConfigDict) -> Run:
    """The step, on a batch that comes from the host's memory every time."""
    model, transform, mean, state = _start(config)
    step = make_train_step(model, transform, mean, config.seed)
    state, parts = pmap.replicate(state), [make_batch(config)] * config.accum_steps

    def run(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state = step(state, parts)
        jax.block_until_ready(state)

    return run


def _forward(config: ml_collections.ConfigDict) -> Run:
    """The evaluation step: from uint8 pixels to sums of scores."""
    model, _, mean, state = _start(config)
    step = steps.make_eval_step(model, mean)
    variables, batch = pmap.replicate(state.variables), make_batch(config)
    del state, batch['position'], batch['color_shift'], batch['color_scale']

    def run(count: int) -> None:
        for _ in range(count):
            sums = step(variables, batch)
        jax.block_until_ready(sums)

    return run


def _start(config: ml_collections.ConfigDict):
    """Network, optimizer, mean image and first state."""
    model = variants.make_model(config)
    schedule = optimizer.make_schedule(config, TRAIN_SIZE)
    transform = optimizer.make_optimizer(config, schedule, TRAIN_SIZE)
    state = create_train_state(model, transform, config.image_size, config.seed)
    return model, transform, _InMemory(config).mean, state


class _InMemory:
    """One batch, again and again: what the loop gets when data cost nothing."""

    train_size = TRAIN_SIZE

    def __init__(self, config: ml_collections.ConfigDict):
        self.eval_size = config.batch_size // config.accum_steps
        self.mean = np.full((config.image_size, config.image_size, 3), 127.5, np.float32)
        self.batch = make_batch(config)

    def load_statistics(self, workdir: str) -> None:
        """The mean is there."""

    def train_batches(self, start_step: int) -> Iterator[steps.Batch]:
        while True:
            yield self.batch

    def eval_batches(self) -> Iterator[steps.Batch]:
        yield {key: self.batch[key] for key in ('image', 'label', 'mask')}

    def example_ids(self, step: int) -> list[str]:
        return []


def _train_in_loop(config: ml_collections.ConfigDict, count: int) -> float:
    """A run of its own; returns the seconds of `count` steps, after as many that warm up."""
    # Their libraries take seconds to import, and the other contenders do without.
    from alexnet_jax.run.logger import read_records
    from alexnet_jax.training import loop

    config = ml_collections.ConfigDict(config)
    config.epochs = 2 * count * config.batch_size / TRAIN_SIZE
    config.log_every = count
    config.eval_every = config.checkpoint_every = 10**9
    with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stdout(io.StringIO()):
        loop.train_and_evaluate(config, workdir, _InMemory(config))
        records = read_records(epath.Path(workdir) / 'metrics.jsonl')
    last = [record for record in records if record['split'] == 'train'][-1]
    return count * config.batch_size / last['images_per_second']


def _matmul(config: ml_collections.ConfigDict) -> Run:
    """Products of two square matrices, the most that a machine computes."""
    a = jnp.ones((matmul_size(),) * 2, config.dtype)
    product = jax.jit(lambda a: a @ a)

    def run(count: int) -> None:
        for _ in range(count):
            result = product(a)
        jax.block_until_ready(result)

    return run


def matmul_size() -> int:
    """Rows of those matrices; a product is 2 n^3 operations."""
    return 2048 if jax.default_backend() == 'cpu' else 8192


def _torch(kind: str, task: str, config: ml_collections.ConfigDict) -> Run:
    from alexnet_jax.benchmark import torch_baseline

    layers = variants.build(config.variant, config.edits, config.num_classes)
    step = torch_baseline.make_step(
        layers,
        config.image_size,
        config.batch_size,
        task,
        kind,
        config.dtype == 'bfloat16',
        config.optimizer.momentum,
        config.optimizer.weight_decay,
    )
    return lambda count: torch_baseline.run(step, count)


def _peak_bytes() -> int:
    """Of the accelerator's memory; on a CPU, of this process."""
    in_use = (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use')
    return in_use or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Serve the contender that the command line names on standard input and output."""
    cli.define_flags(require_workdir=False)
    _, name, task = cli.parse_flags(sys.argv)
    compiling = []
    run = make(name, task, flags.FLAGS.config)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiling.append(seconds) if event in COMPILING else None
    )
    run(1)
    print(json.dumps({'compile_seconds': sum(compiling)}), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        seconds = run(int(line)) or time.perf_counter() - began
        print(json.dumps({'seconds': seconds, 'peak_bytes': _peak_bytes()}), flush=True)


if __name__ == '__main__':
    run_command(main)
