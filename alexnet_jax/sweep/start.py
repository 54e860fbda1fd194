"""Becomes a trial: `python -m alexnet_jax.sweep.start CORES PARENT COMMAND...`.

Takes the cores 'i,j,...' and asks for SIGTERM when the parent ends, however it ends; both hold for
the command that replaces it. In a process of its own since JAX's threads forbid work after a fork.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> None:
    """Set up, then become the command."""
    cores, parent, *command = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the parent may ignore it
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it ended before
            sys.exit(128 + signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, map(int, cores.split(',')))
    os.execv(command[0], command)


if __name__ == '__main__':
    main()
