"""Become a trial: `python -m alexnet_jax.sweep.start CORES PARENT COMMAND...`.

Restricts itself to the cores 'i,j,...' and asks the kernel for SIGTERM when the parent ends,
however it ends. Both stay in force for the command that replaces it. This is a program of its own
because a process with JAX's threads must not run code between fork and exec.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> None:
    """Set up this process, then replace it by the command."""
    cores, parent, *command = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the parent may ignore it
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it ended before the call
            sys.exit(128 + signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, map(int, cores.split(',')))
    os.execv(command[0], command)


if __name__ == '__main__':
    main()
