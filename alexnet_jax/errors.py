"""Errors by exit code. Commands print the message as one line, without a traceback."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import logging


class AlexNetError(Exception):
    """The base class. The message gives what was found, what is allowed, and what to do."""

    exit_code: int


class RunError(AlexNetError):
    """A failure while running: a bad image, no valid checkpoint, a lost process."""

    exit_code = 1


class BadInput(AlexNetError):
    """A config, flag, dataset or workdir that cannot work; raised before any device work."""

    exit_code = 2


class Diverged(AlexNetError):
    """The loss or a gradient is not finite."""

    exit_code = 3


class Interrupted(AlexNetError):
    """SIGINT or SIGTERM was received, and the state was saved."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command's `main`; turn an AlexNetError into a line on stderr and its exit code."""
    logging.set_verbosity(logging.FATAL)  # libraries log the same errors with tracebacks
    sys.unraisablehook = _hook
    try:
        main()
    except Interrupted as stop:
        _stop(str(stop), stop.exit_code)
    except AlexNetError as error:
        _stop(f'error: {error}', error.exit_code)
    except KeyboardInterrupt:  # before training began, or in a command that saves nothing
        _stop('interrupted', 130)
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os._exit(128 + signal.SIGPIPE)
    except OSError as error:  # for instance a full disk, where no more specific message applies
        _stop(f'error: {error}', 1)
    sys.exit(0)


def _hook(unraisable: Any) -> None:
    """Print what a thread could not raise, except TensorStore's echo of a failed save."""
    if str(unraisable.exc_value) != 'Event loop is closed':
        sys.__unraisablehook__(unraisable)


def _stop(line: str, exit_code: int) -> NoReturn:
    sys.stdout.flush()
    print(' '.join(line.split()), file=sys.stderr)
    sys.exit(exit_code)
