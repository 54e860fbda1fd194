"""Runs of `python -m alexnet_jax.main` on the digits, shortened, in processes of their own."""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
from etils import epath
from helpers import ROOT

from alexnet_jax.run import checkpoint, manifest, saved

TIMEOUT = 300  # seconds; a run takes some 10
_numbers = itertools.count()

# Large steps, and a rate that drops at step 9 and step 27, so that an update that is lost, doubled
# or made at another rate shows.
FLAGS = (
    '--config=configs/quickstart.py',
    # Crops, which are cut out of memory for whole batches; the recipe's own op works by example.
    '--config.data.train_ops=decode|resize(36)|random_crop(28)|pca_shift(0.2)',
    '--config.data.eval_ops=decode|resize(36)|center_crop(28)',
    '--config.optimizer.learning_rate=0.02',
    '--config.optimizer.warmup_epochs=0.0',
    '--config.optimizer.schedule=step',
    '--config.optimizer.milestones=(0.4, 1.2)',
)


def environment(cache: Path, devices: int) -> dict[str, str]:
    """What makes a run have that many devices and keep what it compiles in `cache`."""
    return {
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
        'JAX_COMPILATION_CACHE_DIR': str(cache),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        # Most runs find their programs in the cache, and 90 optimized steps take half the time.
        'JAX_DISABLE_MOST_OPTIMIZATIONS': 'false',
    }


# One process for many command lines: most of what one takes is importing.
COMMANDS = """
import contextlib, importlib, io, json, sys
from absl.testing import flagsaver
from alexnet_jax.errors import run_command
module, cases = json.load(sys.stdin)
main = importlib.import_module(module).main
for case in cases:
    sys.argv = [module, *case]
    out, err = io.StringIO(), io.StringIO()
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_command(main)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def outcomes(module: str, *cases: Sequence[str]) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of a command's `main` for each list of arguments."""
    done = subprocess.run(
        [sys.executable, '-c', COMMANDS],
        cwd=ROOT,
        input=json.dumps([module, cases]),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


class Run:
    """A process that trains; `with` kills it at the end, whatever happens."""

    def __init__(
        self,
        workdir: Path,
        cache: Path,
        *flags: str,
        devices: int = 1,
        before: Callable[[], None] | None = None,  # called in the process before Python starts
        url: str | None = None,  # of a bucket that follows `workdir`
        variables: Mapping[str, str] = MappingProxyType({}),  # of the environment
    ):
        place = [f'--workdir={url}', f'--scratch={workdir}'] if url else [f'--workdir={workdir}']
        command = [sys.executable, '-m', 'alexnet_jax.main', *FLAGS, *place, *flags]
        self.errors = workdir.with_name(f'{workdir.name}.{next(_numbers)}.err')
        with self.errors.open('w') as stderr:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | environment(cache, devices) | variables,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                preexec_fn=before,
            )

    def wait_for_step(self, step: int) -> None:
        """Return when the line of a step, or of a later one, is printed."""
        if not self.reaches(step):
            raise AssertionError(f'ended before step {step}: {self.errors.read_text()}')

    def reaches(self, step: int) -> bool:
        """Wait for the line of a step, or of a later one; False if the run ends without it."""
        return any(
            line.startswith('step ') and int(line.split()[1].split('/')[0]) >= step
            for line in self._process.stdout
        )

    def wait_for(self, words: str) -> None:
        """Return when a line that holds some words is printed."""
        if not any(words in line for line in self._process.stdout):
            raise AssertionError(f'ended without {words!r}: {self.errors.read_text()}')

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def finish(self) -> tuple[int, str, str]:
        """Exit code, what is left of standard output, standard error."""
        output, _ = self._process.communicate(timeout=TIMEOUT)
        return self._process.returncode, output, self.errors.read_text()

    def __enter__(self) -> 'Run':
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.communicate()


def train(workdir: Path, cache: Path, *flags: str, devices: int = 1) -> str:
    """Run to the end; returns standard output."""
    with Run(workdir, cache, *flags, devices=devices) as run:
        code, output, errors = run.finish()
    assert code == 0, errors
    return output


@contextlib.contextmanager
def two_processes(
    workdir: Path, cache: Path, *flags: str, devices: int = 2
) -> Iterator[tuple[Run, Run]]:
    """The two processes of a run, each with so many devices."""
    flags = (*flags, f'--coordinator_address=127.0.0.1:{free_port()}', '--num_processes=2')
    with (
        Run(workdir, cache, *flags, '--process_id=0', devices=devices) as first,
        Run(workdir, cache, *flags, '--process_id=1', devices=devices) as second,
    ):
        yield first, second


def free_port() -> int:
    with contextlib.closing(socket.socket()) as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def records(workdir: Path, split: str | None = None) -> list[dict]:
    """Of metrics.jsonl, without images_per_second, which differs from run to run."""
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for record in found:
        del record['images_per_second']
    return [record for record in found if split in (None, record['split'])]


def final_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, by its path; the checkpoint is verified."""
    newest = saved.find_steps(str(workdir))[0]
    folder = epath.Path(workdir) / 'checkpoints' / str(newest)
    assert manifest.find_corruption(folder) is None
    tree = checkpoint._read(folder)
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_state(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Equal bit for bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].tobytes() == value.tobytes(), name


def assert_same_run(found: Path, expected: Path) -> None:
    """The records and the final states of two workdirs are equal."""
    assert records(found) == records(expected)
    assert_same_state(final_state(found), final_state(expected))
