"""Errors by exit code. Commands print the message as one line, without a traceback."""

import atexit
import contextlib
import gc
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import flags, logging


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


class NoDevice(AlexNetError):
    """A trial cannot start the accelerator that it was given: the machine is at fault."""

    exit_code = 4


class Interrupted(AlexNetError):
    """A signal to stop was received and handled: what had to be saved or removed has been."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def device_error(error: Exception) -> BadInput | None:
    """Return what to say if JAX could not start its devices; None for any other error."""
    text = str(error)
    if not text.startswith('Unable to initialize backend'):
        return None
    if "'tpu'" in text:
        text += '; a TPU serves one process at a time: wait for the other, or set JAX_PLATFORMS=cpu'
    return BadInput(f'JAX found no devices: {text}')


def memory_error(error: Exception) -> RunError | None:
    """Return what to say if the device or this machine is out of memory; None for other errors."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not isinstance(error, MemoryError) and not text.startswith('RESOURCE_EXHAUSTED'):
        return None
    remedy = 'stop other programs that use this memory'
    if 'config' in flags.FLAGS:
        if flags.FLAGS['config'].value is None:  # a run's own is used
            remedy += ', or lower the batch size: --config=RUN/config.json --config.batch_size=N'
        else:
            remedy = (
                'lower --config.batch_size, raise --config.accum_steps or set '
                '--config.dtype=bfloat16; python -m alexnet_jax.doctor reports what a step needs'
            )
    return RunError(f'out of memory: {text}; {remedy}')


def one_line(error: BaseException, most: int | None = None) -> str:
    """Return an error's message as one line, or its type if it has none.

    Args:
      error: The error.
      most: How many characters of the message to keep; None for all.
    """
    return ' '.join(str(error).split())[:most] or type(error).__name__


_SHOWN: dict[str, str] = {}


def show_as(folder: str, url: str | None) -> None:
    """Name a local copy by its URL in every message from now on; by its own path again, if None."""
    if url is None:
        _SHOWN.pop(folder, None)
    else:
        _SHOWN[folder] = url


def shown(text: str) -> str:
    """Return a text with the URLs of local copies in place of their paths.

    A longer name (run-images, for run) or a longer path that ends in this one is left alone.
    """
    for folder in sorted(_SHOWN, key=len, reverse=True):
        path = rf'(?<![\w./-]){re.escape(folder)}(?!\.*[\w-])'
        text = re.sub(path, lambda _, url=_SHOWN[folder]: url, text)
    return text


# Signals treated as SIGTERM: the first is sent when a terminal closes, the second by Slurm, where
# --signal=USR1 is the common advice.
LIKE_SIGTERM = (signal.SIGHUP, signal.SIGUSR1)


def catch_stop_signals(
    receive: Callable[[int, Any], None], watched: Sequence[int] = (signal.SIGINT, signal.SIGTERM)
) -> dict[int, Any]:
    """Call `receive` when a signal asks the command to stop.

    Args:
      receive: A signal handler. It gets SIGTERM for the signals treated as SIGTERM, unless another
        signal came first: systemd sends a SIGHUP right after SIGTERM.
      watched: The signals besides those treated as SIGTERM. A SIGHUP that is ignored, as under
        nohup, stays ignored, and so does a SIGINT, as in the background of a script.

    Returns:
      The previous handlers, by signal.
    """
    received = []

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGHUP:
            leave_closed_output()
        received.append(number)
        if number not in LIKE_SIGTERM:
            receive(number, frame)
        elif len(received) == 1:
            receive(signal.SIGTERM, frame)

    may_be_ignored = (signal.SIGHUP, signal.SIGINT)
    return {
        number: signal.signal(number, handle)
        for number in (*watched, *LIKE_SIGTERM)
        if number not in may_be_ignored or signal.getsignal(number) != signal.SIG_IGN
    }


def unwind(number: int, _: Any) -> NoReturn:
    """A handler for `catch_stop_signals`: raise an exception."""
    raise KeyboardInterrupt(number)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Within it, a signal to stop raises an exception, so that what is half written is removed."""
    before = catch_stop_signals(unwind)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_closed_output() -> None:
    """Discard output to a terminal or a pipe that is gone: each line would raise an error."""
    for descriptor in (1, 2):
        if _is_closed(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def _is_closed(descriptor: int) -> bool:
    try:
        os.write(descriptor, b'')  # refused by a terminal that is gone, but not by a pipe
    except OSError:
        return True
    poll = select.poll()
    poll.register(descriptor, 0)  # errors and hang-ups are always reported
    return bool(poll.poll(0))


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command's `main`; turn an AlexNetError into a line on stderr and its exit code."""
    logging.set_verbosity(logging.FATAL)  # libraries log the same errors with tracebacks
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be in any script or encoding
            stream.reconfigure(errors='backslashreplace')
    sys.unraisablehook = _hook
    # Imports and tracing leave a million objects, among which Python would look for cycles over and
    # over: for 1.2 of the 10 s of CPU time of a run of one step, now for 0.4. Steps make no cycles.
    gc.set_threshold(100_000)
    # At exit it would look once more: 1.1 s of a run's.
    atexit.register(gc.freeze)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # see alexnet_jax/__init__.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except Interrupted as stop:
        _stop(str(stop), stop.exit_code)
    except AlexNetError as error:
        _stop(f'error: {error}', error.exit_code)
    except KeyboardInterrupt as stop:  # before training began, or in a command that saves nothing
        _stop('interrupted', 128 + (*stop.args, signal.SIGINT)[0])
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os._exit(128 + signal.SIGPIPE)
    except OSError as error:  # for instance a full disk, where no more specific message applies
        _stop(f'error: {error}', 1)
    except (RuntimeError, MemoryError) as error:
        if not (found := device_error(error) or memory_error(error)):
            raise
        _stop(f'error: {found}', found.exit_code)
    sys.exit(0)


def _hook(unraisable: Any) -> None:
    """Print what a thread could not raise, except TensorStore's echo of a failed save."""
    if str(unraisable.exc_value) != 'Event loop is closed':
        sys.__unraisablehook__(unraisable)


def _stop(line: str, exit_code: int) -> NoReturn:
    sys.stdout.flush()
    print(shown(' '.join(line.split())), file=sys.stderr)
    sys.exit(exit_code)
