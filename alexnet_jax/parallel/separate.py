"""Ask a process of its own, which then releases the devices and the data that it opened."""

import json
import os
import subprocess
import sys
from typing import Any

from alexnet_jax.errors import BadInput


def ask(module: str, *arguments: str) -> Any:
    """Run a module as a command and return what it prints on its last line, as JSON.

    The command takes a GPU's memory only as it needs it.

    Args:
      module: Its name, such as 'alexnet_jax.sweep.probe'.
      arguments: Its command line.

    Raises:
      BadInput: It failed; the message is the last line of its stderr.
    """
    done = subprocess.run(
        [sys.executable, '-m', module, *arguments],
        env=os.environ | {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        silent = f'python -m {module} ended with exit code {done.returncode} and no message'
        raise BadInput((done.stderr.strip().splitlines() or [silent])[-1].removeprefix('error: '))
    return json.loads(done.stdout.splitlines()[-1])
