"""AlexNet in JAX: the network, its 2012 recipe and its relatives.

net = alexnet_jax.load('runs/quickstart')
net.predict('digit.png')
"""

import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from alexnet_jax.evaluation.trained import TrainedNet

_is_command = any(word.partition('.')[0] == 'alexnet_jax' for word in sys.orig_argv)
if (
    sys.argv[:1] == ['-m']
    and _is_command
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    # `python -m alexnet_jax.x` spends seconds on imports before `run_command`: until then, Ctrl-C
    # ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def load(workdir: 'str | os.PathLike[str]', step: int | None = None) -> 'TrainedNet':
    """Load a trained net: the best checkpoint of a run, or that of a step.

    Args:
      workdir: The run's folder.
      step: The checkpoint's step; None for the one with the best eval top-1.

    Raises:
      BadInput: The folder holds no run, or no checkpoint of that step.
      RunError: There is no checkpoint yet, or it is corrupt or from a different network.
    """
    from alexnet_jax.evaluation.trained import TrainedNet  # imports JAX, which takes a second

    return TrainedNet.load(workdir, step)
